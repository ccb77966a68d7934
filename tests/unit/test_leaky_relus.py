"""What computes a leaky rectifier becomes a LeakyRelu, and nothing else does."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from agreement import check, ops
from graphs import node

from onnxquant.passes.simplify.leaky_relus import JoinLeakyRelus

X = graphs.rng(1).standard_normal((2, 3, 4)).astype(np.float32)


def rectifier(slope: Any, op: str = "Max", *, swapped: bool = False) -> onnx.ModelProto:
    pair = ["b", "a"] if swapped else ["a", "b"]
    scaled = [node("Mul", ["c", "a"] if swapped else ["a", "c"], ["b"]), node(op, pair, ["y"])]
    nodes = [node("Neg", ["x"], ["a"]), *(scaled if op != "PRelu" else [node("PRelu", ["a", "c"], ["y"])])]
    return graphs.model(nodes, {"x": ("float32", ["n", 3, 4])}, {"y": "float32"}, {"c": np.asarray(slope, np.float32)})


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("slope", [0.2, [0.2], 0.0, 1.0], ids=str)
def test_a_max_becomes_a_leaky_relu(slope: Any, swapped: bool) -> None:
    document, note = check(rectifier(slope, swapped=swapped), JoinLeakyRelus(), {"x": X})
    assert ops(document) == {"Neg": 1, "LeakyRelu": 1} and note == "1 leaky rectifiers written as LeakyRelu"


@pytest.mark.parametrize("slope", [np.full((3, 1), -0.5), [0.2]], ids=["negative", "one"])
def test_a_prelu_of_one_slope_becomes_a_leaky_relu(slope: Any) -> None:
    document, _ = check(rectifier(slope, "PRelu"), JoinLeakyRelus(), {"x": X})
    assert ops(document) == {"Neg": 1, "LeakyRelu": 1}


@pytest.mark.parametrize(
    "proto",
    [
        rectifier(1.5),
        rectifier(-0.1),
        rectifier(np.full((1, 1, 1, 1), 0.2)),
        rectifier([0.1, 0.2, 0.3, 0.4]),
        rectifier(0.2, "Min"),
        rectifier([[0.1], [0.2], [0.3]], "PRelu"),
    ],
    ids=["above one", "negative", "one axis more", "several", "Min", "slopes per channel"],
)
def test_other_functions_stay(proto: onnx.ModelProto) -> None:
    document, note = check(proto, JoinLeakyRelus(), {"x": X})
    assert note is None and "LeakyRelu" not in ops(document)


def test_a_product_that_is_read_again_stays() -> None:
    proto = rectifier(0.2)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("b", 1, None))
    document, note = check(proto, JoinLeakyRelus(), {"x": X})
    assert note is None and ops(document)["Max"] == 1
