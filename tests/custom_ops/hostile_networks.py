"""Run as a program: nodes of IntegerNetwork, damaged at random. A crash, or one that takes too long, ends the program.

    python hostile_networks.py FIRST COUNT [SECONDS]

Damage number i is the same each time. Prints one JSON object per line before a node is tried, ``case``, and one after it:
``error`` (the message) or ``ran``. SECONDS: the most that one may take, 60 by default.
"""

from __future__ import annotations

import copy
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import AttributeProto, helper, numpy_helper

from onnxquant.native import library as native

NUMBERS = (
    *range(-2, 9), 15, 16, 17, 31, 32, 63, 64, 100, 255, 256, 2047, 2048, 2049, 65535,
    2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**31), -(2**63),
)  # fmt: skip
FLOATS = (0.0, -1.0, 1e-45, 1e-30, 1e30, 3e38, np.inf, -np.inf, np.nan)
TYPES = (np.uint8, np.int8, np.int32, np.int64, np.float32, np.float64, np.float16)
LENGTHS = (0, 1, 2, 3, 5, 16, 33)


@dataclass
class Case:
    """A node and what it reads.

    Attributes:
        steps: its program, as lists of words.
        constants: by their names, in the order of the inputs.
        tables: attribute ``tables``.
        shapes: of the inputs that are no constants.
        outputs: attribute ``outputs``.
        inputs: attribute ``inputs``.
        dtype: of codes.
    """

    steps: list[int]
    constants: dict[str, np.ndarray]
    tables: np.ndarray
    shapes: list[list[int]]
    outputs: list[int]
    inputs: int
    dtype: Any


def step(kind, tensors, constants, numbers):
    """A step as integers."""
    return [kind, len(tensors), *tensors, len(constants), *constants, len(numbers), *numbers]


def base(random: np.random.Generator, dtype) -> Case:
    """A node with a step of every kind."""

    def weight(*shape):
        return random.integers(-128, 128, shape, dtype=np.int8)

    constants = {
        "scale": np.float32(0.05),
        "zero": np.asarray(100, dtype),
        "first": weight(32, 3, 3, 3),
        "apart": weight(32, 1, 5, 5),
        "groups": weight(32, 16, 3, 3),
        "point": weight(20, 32, 1, 1),
        "bias": random.integers(-1000, 1000, 32, dtype=np.int32),
        "float_bias": random.normal(size=20).astype(np.float32),
        "scales": np.full(32, 0.01, np.float32),
    }
    place = {name: 2 + i for i, name in enumerate(constants)}
    s, z = place["scale"], place["zero"]
    low, high = (0, 255) if dtype == np.uint8 else (-128, 127)

    def convolution(tensor, name, window, groups=1, bias=-1, scales=s):
        return step(1, [tensor], [place[name], bias, s, z, scales, s, z], [groups, *window, low, high])

    three = [3, 3, 1, 1, 1, 1, 1, 1, 1, 1]
    steps = [
        convolution(0, "first", [3, 3, 2, 2, 1, 1, 1, 1, 1, 1], bias=place["bias"], scales=place["scales"]),  # 2
        convolution(2, "apart", [5, 5, 1, 1, 2, 2, 2, 2, 1, 1], groups=32, bias=place["bias"]),  # 3
        convolution(3, "groups", [3, 3, 1, 1, 2, 2, 2, 2, 2, 2], groups=2),  # 4
        step(3, [2, 4], [s, z, s, z, s, z], [low, high]),  # 5
        step(5, [5], [s, z, s, z], []),  # 6
        step(4, [5, 6], [s, z, s, z, s, z], [low, high]),  # 7
        step(6, [7], [], three),  # 8
        step(7, [7], [s, z, s, z], [*three, 1]),  # 9
        step(8, [8, 9, 7], [], [0, -1, 1]),  # 10
        step(10, [10], [], [7, 39]),  # 11
        step(2, [11], [], [0, 32]),  # 12
        convolution(12, "point", [1, 1, 1, 1, 0, 0, 0, 0, 1, 1], bias=place["float_bias"]),  # 13
        step(9, [13], [], [2, 3]),  # 14
        step(2, [1], [], [1, 1]),  # 15
        step(6, [14], [], [3, 3, 2, 2, 0, 0, 1, 1, 1, 1]),  # 16
    ]
    tables = random.integers(0, 256, (32, 256), dtype=np.uint8)
    shapes = [[1, 3, int(random.integers(1, 20)), int(random.integers(1, 20))] for _ in range(2)]
    return Case([word for words in steps for word in words], constants, tables, shapes, [16, 5, 15], 2, dtype)


def damage_words(random: np.random.Generator, words: list[int]) -> None:
    """One change of a program, most of them of one word."""
    kind, at = random.integers(0, 16), int(random.integers(0, len(words)))
    if kind == 0:
        del words[at:]
    elif kind == 1:
        del words[at]
    elif kind == 2:
        words.insert(at, int(random.choice(NUMBERS)))
    elif kind == 3:
        other = int(random.integers(0, len(words)))
        words[at], words[other] = words[other], words[at]
    elif kind == 4:
        first = int(random.integers(0, len(words)))
        words[at:at] = words[first : first + int(random.integers(1, 40))]
    elif kind < 8:
        value = (words[at] ^ (1 << int(random.integers(0, 64)))) & (2**64 - 1)
        words[at] = value - 2**64 if value >= 2**63 else value
    elif kind < 12:
        words[at] = int(random.choice(NUMBERS))
    else:
        words[at] += int(random.choice((-16, -2, -1, 1, 2, 16)))
        words[at] = max(-(2**63), min(2**63 - 1, words[at]))


def damage_constant(random: np.random.Generator, case: Case) -> None:
    """Another shape, type or value of a constant."""
    name = str(random.choice(list(case.constants)))
    value, kind = np.array(case.constants[name]), random.integers(0, 5)
    if kind == 0:
        value = value.astype(random.choice(TYPES))
    elif kind == 1:
        value = value.reshape(-1)[: int(random.integers(0, value.size + 1))]
    elif kind == 2:
        value = np.resize(value, [int(random.choice(LENGTHS)) for _ in range(int(random.integers(0, 6)))])
    elif kind == 3 and value.dtype.kind == "f":
        value = np.full_like(value, random.choice(FLOATS))
    elif kind == 4 and value.ndim == 4:
        value = np.resize(value, random.permutation(value.shape))
    case.constants[name] = value


def damage(random: np.random.Generator, case: Case) -> None:
    """One change."""
    kind = random.integers(0, 12)
    if kind < 7 and case.steps:
        damage_words(random, case.steps)
    elif kind < 9:
        damage_constant(random, case)
    elif kind == 9:
        case.tables = case.tables[: int(random.integers(0, 33))]
    elif kind == 10:
        shape = case.shapes[int(random.integers(0, 2))]
        shape[int(random.integers(0, 4))] = int(random.choice(LENGTHS))
    else:
        case.outputs = [int(random.choice((*range(20), *NUMBERS))) for _ in case.outputs]
        case.inputs = int(random.choice((2, 2, 0, 1, 3, 5, 100, -1, 2**63 - 1)))


def attempt(case: Case) -> dict[str, Any]:
    """Make a session and run it."""
    names = [f"X{i}" for i in range(2)]
    outputs = [f"Y{i}" for i in range(len(case.outputs))]
    node = helper.make_node("IntegerNetwork1", [*names, *case.constants], outputs, domain="onnxquant")
    for name, words in {"program": case.steps, "outputs": case.outputs}.items():
        node.attribute.append(helper.make_attribute(name, words, attr_type=AttributeProto.INTS))
    node.attribute.append(helper.make_attribute("inputs", case.inputs))
    node.attribute.append(helper.make_attribute("tables", numpy_helper.from_array(case.tables, "tables")))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, kind, [None] * 4) for name in names],
        [helper.make_tensor_value_info(name, kind, [None] * 4) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in case.constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("onnxquant", 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.register_custom_ops_library(str(native.library_path()))
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape).astype(np.uint8).view(case.dtype) for shape in case.shapes]
    feeds = dict(zip(names, images, strict=True))
    try:
        proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(2):
            session.run(None, feeds)
    except Exception as error:
        return {"error": str(error)}
    return {"ran": True}


def main() -> None:
    first, count = int(sys.argv[1]), int(sys.argv[2])
    seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 60
    random = np.random.default_rng(0)
    bases = [base(random, dtype) for dtype in (np.uint8, np.int8)]
    for number in range(first, first + count):
        print(json.dumps({"case": number}), flush=True)
        random = np.random.default_rng(number)
        case = copy.deepcopy(bases[number % 2])
        for _ in range(0 if number < 2 else int(random.integers(1, 4))):
            damage(random, case)
        signal.alarm(seconds)
        print(json.dumps(attempt(case)), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
