"""Run as a program, for one kernel and formats: nodes that lie, then random ones. A crash would take the program down.

Prints one JSON object per line: the format, the lie, and ``error`` (the message) or ``ran``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import kernels
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
    planes = weight.stored.planes
    codes = planes["codes"]
    block = weight.stored.block_size
    for key in ("N", "K", "block_size"):
        for value in (0, -1, -BIG, 2**31, BIG, 2**63 - 1):
            yield f"{key}={value}", {"attributes": {key: value}}
        yield f"no {key}", {"dropped": (key,)}
        yield f"{key} is a float", {"attributes": {key: 33.0}}
        yield f"{key} is a string", {"attributes": {key: "33"}}
    yield "N one tile more", {"attributes": {"N": ROWS + 16}}
    yield "N one tile less", {"attributes": {"N": 32}}
    yield "K one block more", {"attributes": {"K": COLS + max(block, 32)}}  # q3_k's rows are padded to 32
    yield "K one block less", {"attributes": {"K": COLS - block}}
    yield "block_size above all", {"attributes": {"block_size": 512}}
    yield "block_size below all", {"attributes": {"block_size": 8}}
    yield "block_size no power of two", {"attributes": {"block_size": 48}}
    for name, plane in planes.items():
        for lie, changed in lies_about(plane, name):
            yield f"{name} {lie}", {"planes": {name: changed}}
        yield f"{name} fed", {"fed": (name,)}
        yield f"{name} computed", {"computed": (name,)}
        yield f"{name} missing", {"dropped": (name,)}
    yield "codes of 20 dimensions", {"planes": {"codes": codes.reshape((1,) * (20 - codes.ndim) + codes.shape)}}
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


def lies_about(plane, name):
    """What to make of a plane instead: other sizes and other types."""
    if plane.size > 1 and name != "outlier_columns":
        yield "short", np.ascontiguousarray(plane[:-1]) if plane.shape[0] > 1 else np.ascontiguousarray(plane[:, :-1])
    if plane.ndim > 1:
        yield "flat", plane.reshape(-1)
        yield "one longer in the middle", np.concatenate([plane, plane[:, -1:]], axis=1)
        yield (
            "transposed",
            np.ascontiguousarray(np.moveaxis(plane, 0, 1)) if plane.shape[0] != plane.shape[1] else plane[0],
        )
    yield "empty", plane.reshape(-1)[:0].reshape(0, 1)
    yield "scalar", np.array(plane.reshape(-1)[0])
    yield "two", np.ones((2, 1, 2), plane.dtype)
    for dtype in (np.float64, np.int64, np.float32, np.float16, np.uint8, np.int8):
        if plane.dtype != dtype:
            yield f"of type {np.dtype(dtype)}", plane.astype(np.float32).astype(dtype)
    if name in ("outlier_columns", "permutation"):
        for value in (-1, COLS, 2**31 - 1, -(2**31)):
            wrong = plane.copy()
            wrong[1] = value
            yield f"holding {value}", wrong
        twice = plane.copy()
        twice[1] = twice[0]
        yield "holding one twice", twice


def random_lie(random: np.random.Generator, weight: Sample) -> dict:
    """Some attributes and plane shapes at random: refused, or the sizes happen to fit."""
    numbers = [-1, 0, 1, 15, 16, 17, 31, 32, 33, 48, 64, 100, 128, 256, 2**31 - 1, 2**31, 2**32, BIG]
    change: dict = {"attributes": {}}
    for key in ("N", "K", "block_size"):
        if random.random() < 0.5:
            change["attributes"][key] = int(random.choice(numbers))
    for plane in weight.stored.planes:
        if random.random() < 0.5:
            rank = int(random.integers(0, 5))
            shape = [int(random.choice([0, 1, 2, 3, 4, 13, 16, 25, 50])) for _ in range(rank)]
            if plane == "codes" and random.random() < 0.8:
                shape = [int(random.choice([1, 2, 3, 4])), int(random.choice([2, 4, 8, 16, 32])), 16, 4]
            change.setdefault("planes", {})[plane] = np.ones(shape, weight.stored.planes[plane].dtype)
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


def try_format(kernel: str, name: str, count: int, *, permuted: bool) -> None:
    form = kernels.geometry(name)
    block = min(max(32, form.min_block), form.max_block)
    weight = sample(name, ROWS, COLS, block, form.granularities[0], permuted=permuted)
    for lie, change in lies(weight, kernel):
        print(json.dumps({"format": name, "lie": lie, **attempt(kernel, name, weight, change)}), flush=True)
    random = np.random.default_rng(7)
    for i in range(count):
        change = random_lie(random, weight)
        shown = {"attributes": change["attributes"], **{k: list(v.shape) for k, v in change.get("planes", {}).items()}}
        outcome = attempt(kernel, name, weight, change)
        print(json.dumps({"format": name, "random": i, "change": shown, **outcome}), flush=True)


def main() -> None:
    kernel, count, permuted, names = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "permuted", sys.argv[4:]
    for name in names:
        try_format(kernel, name, count, permuted=permuted)


if __name__ == "__main__":
    main()
