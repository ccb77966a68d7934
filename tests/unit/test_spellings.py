"""GELU, hard swish and hard sigmoid are written as onnxruntime computes them fastest, and nothing else changes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from agreement import check, ops
from graphs import Array, node

from onnxquant.passes.prepare.spellings import SpellActivations

X = np.concatenate([3 * graphs.rng(1).standard_normal((5, 8)), np.linspace(-9, 9, 24).reshape(3, 8)]).astype(np.float32)
CONSTANTS = {
    "half": 0.5, "one": 1.0, "three": 3.0, "six": 6.0, "zero": 0.0, "sixth": 1 / 6, "root": math.sqrt(2),
    "unroot": math.sqrt(0.5), "scale": math.sqrt(2 / math.pi), "cubic": 0.044715, "wrong": 1.7, "five": 5.0, "other": 1.414,
}  # fmt: skip


def model(text: str, opset: int = 17, **constants: object) -> onnx.ModelProto:
    """A model of nodes such as ``a = Mul x half``, behind a Neg of the input and before one of ``y``."""
    nodes = [node("Neg", ["input"], ["x"])]
    for line in text.strip().splitlines():
        output, words = line.split(" = ")
        op, *inputs = words.split()
        nodes.append(node(op, ["" if name == "-" else name for name in inputs], [output.strip()]))
    nodes.append(node("Neg", ["y"], ["output"]))
    read = {name for n in nodes for name in n.input}
    values = {name: np.asarray(value, np.float32) for name, value in {**CONSTANTS, **constants}.items() if name in read}
    return graphs.model(nodes, {"input": ("float32", ["n", 8])}, {"output": "float32"}, values, opset)


ERF = "a = Div x root\nb = Erf a\nc = Add b one\n"
ERF_OF_PRODUCT = "a = Mul x unroot\nb = Erf a\nc = Add one b\n"
CUBE = "p = Mul x x\nq = Mul p x\nr = Mul cubic q\na = Add x r\n"
TANH = "t = Mul scale a\nu = Tanh t\nc = Add u one\n"
POWER = "q = Pow x three\nr = Mul q cubic\na = Add r x\n"
NESTED = "p = Mul cubic x\nq = Mul x p\nr = Mul x q\na = Add x r\n"
CLIPPED = "a = Add x three\nb = Clip a zero six\n"
GELUS = {
    "half of the sum": ERF + "d = Mul half c\ny = Mul x d",
    "by the root's inverse": ERF_OF_PRODUCT + "d = Mul c half\ny = Mul d x",
    "sum of halves": "a = Div x root\nb = Erf a\nd = Mul b half\ne = Add d half\ny = Mul e x",
}
TANHS = {
    "half at the end": CUBE + TANH + "d = Mul x c\ny = Mul half d",
    "power": POWER + TANH + "d = Mul half c\ny = Mul x d",
    "nested": NESTED + TANH + "d = Mul half c\ny = Mul x d",
}
HARD = {
    "divided": CLIPPED + "c = Mul x b\ny = Div c six",
    "sigmoid first": CLIPPED + "c = Div b six\ny = Mul x c",
    "multiplied": CLIPPED + "c = Mul b x\ny = Mul c sixth",
    "relu and min": "a = Add three x\nr = Relu a\nb = Min r six\nc = Mul x b\ny = Div c six",
    "scaled first": "a = Mul x sixth\nb = Add a half\nc = Clip b zero one\ny = Mul x c",
}


def optimized(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators that onnxruntime runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("kind", [*GELUS, *TANHS])
def test_onnxruntime_makes_one_operator_of_a_gelu(kind: str, opset: int, tmp_path: Path) -> None:
    document, note = check(model({**GELUS, **TANHS}[kind], opset), SpellActivations(), {"input": X})
    assert note is not None and note.startswith("1 x GELU")
    found = optimized(document.proto, tmp_path)
    assert found["Gelu"] + found["FastGelu"] == 1 and not found["Erf"] + found["Tanh"]


@pytest.mark.parametrize("kind", HARD)
def test_hard_swish_is_a_product_with_hard_sigmoid(kind: str) -> None:
    document, note = check(model(HARD[kind]), SpellActivations(), {"input": X})
    assert ops(document) == {"Neg": 2, "HardSigmoid": 1, "Mul": 1}
    assert note == "1 x hard swish written as onnxruntime computes it fastest"


def test_hard_sigmoid_is_one_operator() -> None:
    document, _ = check(model(CLIPPED + "y = Div b six"), SpellActivations(), {"input": X})
    assert ops(document) == {"Neg": 2, "HardSigmoid": 1}


def test_bounds_that_are_attributes_are_read() -> None:
    proto = model("a = Add x three\nb = Clip a\nc = Mul x b\ny = Div c six", opset=9)
    clip = next(n for n in proto.graph.node if n.op_type == "Clip")
    clip.attribute.extend([onnx.helper.make_attribute("min", 0.0), onnx.helper.make_attribute("max", 6.0)])
    document, _ = check(proto, SpellActivations(), {"input": X})
    assert ops(document) == {"Neg": 2, "HardSigmoid": 1, "Mul": 1}


@pytest.mark.parametrize(
    "text",
    [
        ERF + "d = Mul x c\ny = Mul d half",
        ERF + "h = Mul x half\ny = Mul h c",
        "h = HardSigmoid x\ny = Mul x h",
        "a = Div x other\nb = Erf a\nc = Add b one\nd = Mul half c\ny = Mul x d",
        "a = Div x wrong\nb = Erf a\nc = Add b one\nd = Mul half c\ny = Mul x d",
        "a = Add x three\nb = Clip a zero five\nc = Mul x b\ny = Div c six",
        "a = Add x three\nb = Clip a zero -\nc = Mul x b\ny = Div c six",
        "z = Abs x\n" + ERF + "d = Mul half c\ny = Mul z d",
        ERF + "d = Mul half c\ne = Mul x d\ny = Add e c",
    ],
    ids=[
        "known",
        "known too",
        "another alpha",
        "rough",
        "not the root",
        "five",
        "no bound",
        "two sources",
        "read again",
    ],
)
def test_other_functions_stay(text: str) -> None:
    proto = model(text)
    document, note = check(proto, SpellActivations(), {"input": X})
    assert note is None and list(document.proto.graph.node) == list(proto.graph.node)


@pytest.mark.parametrize("three", [np.full(8, 3), np.full((1, 1, 1), 3)], ids=["a vector", "more axes"])
def test_constants_that_are_no_single_value_stay(three: Array) -> None:
    _, note = check(model(HARD["divided"], three=three), SpellActivations(), {"input": X})
    assert note is None


def test_values_that_are_outputs_stay() -> None:
    proto = model(GELUS["half of the sum"])
    proto.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    _, note = check(proto, SpellActivations(), {"input": X})
    assert note is None


def test_a_second_run_changes_nothing() -> None:
    gelu = "a = Div x root\nb = Erf a\nc = Add b one\nd = Mul half c\nz = Mul x d"
    chained = gelu + "\ne = Add z three\nf = Clip e zero six\ng = Mul z f\ny = Div g six"
    document, _ = check(model(chained), SpellActivations(), {"input": X})
    assert ops(document) == {"Neg": 2, "Div": 1, "Erf": 1, "Add": 1, "Mul": 3, "HardSigmoid": 1}
    assert not SpellActivations()(document).changed
