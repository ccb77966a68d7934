"""A mean over images becomes a GlobalAveragePool, and no other mean does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from agreement import check, ops
from graphs import node

from onnxquant.passes.simplify.means import JoinMeans

X = graphs.rng(1).standard_normal((2, 3, 5, 4)).astype(np.float32)


def mean(axes: list[int] | None, opset: int = 17, shape: Sequence[Any] = ("n", 3, "h", "w"), **more: Any) -> onnx.ModelProto:
    """A ReduceMean; its axes are an input since opset 18."""
    constants = {"axes": np.array(axes)} if axes is not None and opset >= 18 else {}
    attributes = {"axes": axes, **more} if axes is not None and opset < 18 else more
    nodes = [node("Neg", ["x"], ["a"]), node("ReduceMean", ["a", *constants], ["y"], **attributes)]
    return graphs.model(nodes, {"x": ("float32", shape)}, {"y": "float32"}, constants, opset)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]], ids=str)
def test_a_mean_over_images_becomes_a_pool(axes: list[int], opset: int) -> None:
    document, note = check(mean(axes, opset), JoinMeans(), {"x": X})
    assert ops(document) == {"Neg": 1, "GlobalAveragePool": 1} and note == "1 means over images written as GlobalAveragePool"


@pytest.mark.parametrize(
    "proto",
    [
        mean([2, 3], keepdims=0),
        mean([2, 3], 18, keepdims=0),
        mean([1, 2, 3]),
        mean([3]),
        mean(None),
        mean(None, 18),
    ],
    ids=["without its axes", "without its axes, 18", "channels too", "one axis", "all axes", "all axes, 18"],
)
def test_other_means_stay(proto: onnx.ModelProto) -> None:
    document, note = check(proto, JoinMeans(), {"x": X})
    assert note is None and ops(document)["ReduceMean"] == 1


def test_a_mean_of_other_ranks_stays() -> None:
    proto = mean([2, 3], shape=("n", 3, "d", "h", "w"))
    document, note = check(proto, JoinMeans(), {"x": X[:, :, None]})
    assert note is None and ops(document)["ReduceMean"] == 1


def test_axes_that_callers_give_stay() -> None:
    proto = mean([2, 3], 18)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("axes", onnx.TensorProto.INT64, [2]))
    document, note = check(proto, JoinMeans(), {"x": X})
    assert note is None and ops(document)["ReduceMean"] == 1
