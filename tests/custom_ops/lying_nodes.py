"""Run as a program, for one kernel and format: nodes that lie, then random ones. A crash would take the program down.

Prints one JSON object per line: the lie, and ``error`` (the message) or ``ran``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from kernel_oracle import Sample, sample
from nodes import Node, session

ROWS, COLS = 33, 100
BIG = 2**62


def base(kernel: str, name: str, weight: Sample) -> Node:
    return Node(kernel, weight.stored, np.float32 if kernel == "MatMul" else np.int64)


def lies(weight: Sample, kernel: str):
    """Name of the lie and what to change; every one must be refused."""
    codes, scales = weight.stored.codes, weight.stored.scales
    block = weight.stored.block_size
    for key in ("N", "K", "block_size"):
        for value in (0, -1, -BIG, 2**31, BIG, 2**63 - 1):
            yield f"{key}={value}", {"attributes": {key: value}}
        yield f"no {key}", {"dropped": (key,)}
        yield f"{key} is a float", {"attributes": {key: 33.0}}
        yield f"{key} is a string", {"attributes": {key: "33"}}
    yield "N one tile more", {"attributes": {"N": ROWS + 16}}
    yield "N one tile less", {"attributes": {"N": 32}}
    yield "K one block more", {"attributes": {"K": COLS + block}}
    yield "K one block less", {"attributes": {"K": COLS - block}}
    yield "block_size doubled", {"attributes": {"block_size": 512}}
    yield "block_size halved", {"attributes": {"block_size": 8}}
    yield "block_size no power of two", {"attributes": {"block_size": 48}}
    yield "codes one vector short", {"codes": np.ascontiguousarray(codes[:, :-1])}
    yield "codes one tile short", {"codes": np.ascontiguousarray(codes[:-1])}
    yield "codes flat", {"codes": codes.reshape(-1)}
    yield "codes transposed", {"codes": np.ascontiguousarray(codes.transpose(1, 0, 2, 3))}
    yield "codes empty", {"codes": np.zeros((0,), np.uint8)}
    yield "codes scalar", {"codes": np.array(3, np.uint8)}
    yield "codes int8", {"codes": codes.view(np.int8)}
    yield "codes float", {"codes": codes.astype(np.float32)}
    yield "codes of 20 dimensions", {"codes": codes.reshape((1,) * 16 + codes.shape)}
    yield "scales short", {"scales": scales.reshape(-1)[:0]}
    yield "scales of rank 2", {"scales": np.ones((3, 16), scales.dtype)}
    yield "scales two", {"scales": np.ones(2, scales.dtype)}
    yield "scales scalar", {"scales": np.array(1, scales.dtype)}
    yield "scales double", {"scales": scales.astype(np.float64)}
    other = np.float32 if scales.dtype == np.float16 else np.float16
    yield "scales of the other float type", {"scales": scales.astype(other)}
    for plane in ("codes", "scales"):
        yield f"{plane} fed", {"fed": (plane,)}
        yield f"{plane} computed", {"computed": (plane,)}
        yield f"{plane} missing", {"dropped": (plane,)}
    if kernel == "MatMul":
        yield "X missing", {"dropped": ("X",)}
        yield "X double", {"dtype": np.float64}
        yield "compute unknown", {"attributes": {"compute": "int4"}}
        yield "compute empty", {"attributes": {"compute": ""}}
        yield "compute long", {"attributes": {"compute": "int8" * 100}}
        yield "compute with a NUL", {"attributes": {"compute": b"int8\0int8"}}
        yield "compute integer", {"attributes": {"compute": 8}}
        yield "compute float", {"attributes": {"compute": 8.0}}
        for shape in ((), (COLS + 1,), (0,), (2, COLS - 1), (COLS, 2), (2, 0), (1,) * 20 + (COLS,)):
            yield f"X has shape {shape}", {"shape": ["?"] * len(shape), "x": np.zeros(shape, np.float32)}
    else:
        yield "indices missing", {"dropped": ("indices",)}
        yield "indices float", {"dtype": np.float32}
        for index in (ROWS, -ROWS - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)):
            yield f"index {index}", {"x": np.array([0, index])}


def random_lie(random: np.random.Generator, weight: Sample) -> dict:
    """Some attributes and plane shapes at random: refused, or the sizes happen to fit."""
    numbers = [-1, 0, 1, 15, 16, 17, 31, 32, 33, 48, 64, 100, 128, 256, 2**31 - 1, 2**31, 2**32, BIG]
    change: dict = {"attributes": {}}
    for key in ("N", "K", "block_size"):
        if random.random() < 0.5:
            change["attributes"][key] = int(random.choice(numbers))
    for plane in ("codes", "scales"):
        if random.random() < 0.5:
            rank = int(random.integers(0, 5))
            shape = [int(random.choice([0, 1, 2, 3, 4, 13, 16, 25, 50])) for _ in range(rank)]
            if plane == "codes" and random.random() < 0.8:
                shape = [int(random.choice([1, 2, 3, 4])), int(random.choice([2, 4, 8, 16, 32])), 16, 4]
            change[plane] = np.ones(shape, getattr(weight.stored, plane).dtype)
    return change


def attempt(kernel: str, name: str, weight: Sample, change: dict) -> dict:
    change = dict(change)
    x = change.pop("x", None)
    node = base(kernel, name, weight)
    if x is not None and kernel == "Gather":
        x = x.astype(np.int64)
    for key, value in change.items():
        setattr(node, key, value)
    try:
        opened = session(node.model())
        feed = {}
        for entry in opened.get_inputs():
            given = x if entry.name in ("X", "indices") and x is not None else None
            if given is None:
                cols = node.attributes.get("K", COLS)
                given = np.ones((2, cols), np.float32) if entry.name == "X" else np.zeros(2, np.int64)
            feed[entry.name] = given
        opened.run(None, feed)
    except Exception as error:
        return {"error": str(error)}
    return {"ran": True}


def main() -> None:
    kernel, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    from onnxquant import native

    weight = sample(name, ROWS, COLS, 32, native.geometry(name).granularities[0])
    for lie, change in lies(weight, kernel):
        print(json.dumps({"lie": lie, **attempt(kernel, name, weight, change)}), flush=True)
    random = np.random.default_rng(7)
    for i in range(count):
        change = random_lie(random, weight)
        shown = {k: v if isinstance(v, dict) else list(v.shape) for k, v in change.items()}
        print(json.dumps({"random": i, "change": shown, **attempt(kernel, name, weight, change)}), flush=True)


if __name__ == "__main__":
    main()
