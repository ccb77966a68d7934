"""Biases corrected for the mean error that rounding a kernel's weights and its input brings.

For each Conv and Gemm: E[op(x, W)] - E[op(Q(x), Q(W))] per output channel, over the calibration samples, with the float
model's own x; that difference is added to the bias. (Empirical bias correction, Nagel et al. 2019, arXiv 1906.04721,
section 4.2, of each layer by itself: what earlier layers do is corrected there.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.activations.codes import Codes
from onnxquant.activations.placement import Placement, Unit
from onnxquant.calibration.feeds import Feeds
from onnxquant.graph.flow import Flow
from onnxquant.graph.io import Document

Decoded = Callable[[str], NDArray[np.floating]]
Progress = Callable[[str, float], None]
_AXES_AS_INPUT = 18  # opset in which ReduceMean took its axes as an input


def corrections(
    document: Document,
    placement: Placement,
    side: tuple[Codes, Mapping[str, tuple[float, float]]],
    decoded: Decoded,
    feeds: Feeds,
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> dict[str, NDArray[np.float64]]:
    """What is to be added to biases: by the first output of the kernel, one value per channel.

    Each kernel's is its own: it does not depend on which others are computed on integers.

    Args:
        document: the float model.
        placement: where integers are.
        side: type of the activations and ranges of their sources.
        decoded: what becomes of a weight, by the name of its tensor.
        feeds: calibration samples.
        threads: of the session.
        progress: told what is done.
    """
    units = [u for u in placement.kernels if u.node.op_type in ("Conv", "Gemm")]
    if not units:
        return {}
    addition = _simulation(document, (placement, units), side, decoded)
    names = [n for u in units for n in (_mean(u, "float"), _mean(u, "rounded"))]
    sums: dict[str, NDArray[np.float64]] = {}
    with runtime.extendable(document, threads) as source:
        session = source.session(addition)
        for i, feed in enumerate(feeds):
            for name, value in runtime.run(session, feed, names).items():
                sums[name] = sums.get(name, 0.0) + value.astype(np.float64)
            progress("correcting biases", (i + 1) / len(feeds))
    changes = {u.node.output[0]: (sums[_mean(u, "float")] - sums[_mean(u, "rounded")]) / len(feeds) for u in units}
    return {name: change for name, change in changes.items() if np.isfinite(change).all()}


def correct(document: Document, changes: Mapping[str, NDArray[np.float64]]) -> None:
    """Add to the biases of kernels, in place."""
    flow = Flow(document.proto.graph)
    for name, change in changes.items():
        node = flow.producer(name)
        assert node is not None
        _add_to_bias(document, flow, node, change)
    flow.apply()


def _mean(unit: Unit, kind: str) -> str:
    return f"onnxquant/{unit.node.output[0]}/mean/{kind}"


def _simulation(
    document: Document,
    where: tuple[Placement, list[Unit]],
    side: tuple[Codes, Mapping[str, tuple[float, float]]],
    decoded: Decoded,
) -> onnx.ModelProto:
    """Beside each kernel the same one with rounded weights and input, and the channel means of both."""
    placement, units = where
    codes, ranges = side
    addition = onnx.ModelProto()
    graph, make = addition.graph, onnx.helper.make_node
    rounded: dict[str, str] = {}
    for unit in units:
        x, base = unit.node.input[0], f"onnxquant/{unit.node.output[0]}"
        if x not in rounded:
            rounded[x] = f"onnxquant/{x}/rounded"
            scale, zero = codes.parameters(*ranges[placement.tensors[x].source])
            names = [f"onnxquant/{x}/scale", f"onnxquant/{x}/zero"]
            for name, value in zip(names, (scale, zero), strict=True):
                graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
            graph.node.append(make("QuantizeLinear", [x, *names], [f"onnxquant/{x}/codes"]))
            graph.node.append(make("DequantizeLinear", [f"onnxquant/{x}/codes", *names], [rounded[x]]))
        weight = np.ascontiguousarray(decoded(unit.node.input[1]), np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(weight, f"{base}/weight"))
        twin = onnx.NodeProto()
        twin.CopyFrom(unit.node)
        twin.name, twin.input[0], twin.input[1], twin.output[0] = f"{base}/node", rounded[x], f"{base}/weight", base
        graph.node.append(twin)
        axes = [0] if unit.node.op_type == "Gemm" else [i for i in range(weight.ndim) if i != 1]
        for source, kind in ((unit.node.output[0], "float"), (base, "rounded")):
            graph.node.append(_reduce(graph, source, _mean(unit, kind), axes, document.opset))
            graph.output.add(name=_mean(unit, kind))
    return addition


def _reduce(graph: onnx.GraphProto, source: str, output: str, axes: list[int], opset: int) -> onnx.NodeProto:
    if opset < _AXES_AS_INPUT:
        return onnx.helper.make_node("ReduceMean", [source], [output], axes=axes, keepdims=0)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), f"{output}/axes"))
    return onnx.helper.make_node("ReduceMean", [source, f"{output}/axes"], [output], keepdims=0)


def _add_to_bias(document: Document, flow: Flow, node: onnx.NodeProto, change: NDArray[np.float64]) -> None:
    given = flow.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    before = document.array(given) if given is not None else np.zeros(len(change), np.float32)
    after = before.astype(np.float64) + change.reshape(before.shape)
    flow.set_constant(node, 2, after.astype(before.dtype), f"{node.output[0]}/bias")
