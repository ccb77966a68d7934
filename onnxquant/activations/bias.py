"""Biases corrected for the mean error that rounding a kernel's weights and its input brings.

For each Conv and Gemm: E[op(x, W)] - E[op(Q(x), Q(W))] per output channel, over the calibration samples, with the float
model's own x; that difference is added to the bias. (Empirical bias correction, Nagel et al. 2019, arXiv 1906.04721,
section 4.2, each layer by itself; there the errors of earlier layers are corrected too.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.activations.placement import Placement, Unit
from onnxquant.calibration.folds import FoldedSamples
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.observers.codes import Codes
from onnxquant.recipe.progress import Progress, silent

_AXES_AS_INPUT = 18  # opset in which the axes of ReduceMean became an input


@dataclass(frozen=True)
class RoundedKernels:
    """The kernels of a placement with rounded inputs and weights.

    Attributes:
        placement: the units of the float model.
        codes: type of the activations.
        ranges: lowest and highest value of each source.
        decoded: a function that returns a weight's values after encoding, by the name of its tensor.
    """

    placement: Placement
    codes: Codes
    ranges: Mapping[str, tuple[float, float]]
    decoded: Callable[[str], NDArray[np.floating]]

    @property
    def units(self) -> list[Unit]:
        """The units that have a bias to correct."""
        return [u for u in self.placement.kernels if u.node.op_type in ("Conv", "Gemm")]


@dataclass(frozen=True)
class Corrections:
    """Corrections of biases, by the first output of the kernel: one value per channel to add to its bias.

    Attributes:
        whole: those that all samples show.
        others: those that the samples of the other folds show, of each fold.
    """

    whole: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    others: tuple[Mapping[str, NDArray[np.float64]], ...] = ()


def corrections(
    document: Document,
    kernels: RoundedKernels,
    samples: FoldedSamples,
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> Corrections:
    """Compute corrections of biases. Each depends on its own kernel alone, not on which others compute on integers.

    Args:
        document: the float model.
        kernels: the rounded kernels.
        samples: calibration samples.
        threads: number of threads of the session.
        progress: display of the part that is done.
    """
    if not kernels.units:
        return Corrections({}, ({},) * samples.count)
    addition = _simulation(document, kernels)
    names = [name for u in kernels.units for name in (_mean(u, "float"), _mean(u, "rounded"))]
    folds = samples.folds or (0,) * len(samples.feeds)
    means = [_Means() for _ in range(max(1, samples.count))]
    with runtime.extendable(document, threads) as source:
        session = source.session(addition)
        for i, feed in enumerate(samples.feeds):
            means[folds[i]].add(runtime.run(session, feed, names))
            progress("correcting biases", (i + 1) / len(folds))
    others = [[m for other, m in enumerate(means) if other != fold] for fold in range(samples.count)]
    return Corrections(_differences(kernels, means), tuple(_differences(kernels, parts) for parts in others))


class _Means:
    """Sums of means over samples, with the number of samples that have each."""

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Add the means of one sample, but for those of kernels that it has no rows for."""
        for name, value in values.items():
            if np.isfinite(value).all():
                self.sums[name] = self.sums.get(name, 0.0) + value.astype(np.float64)
                self.counts[name] += 1


def _differences(kernels: RoundedKernels, parts: Sequence[_Means]) -> dict[str, NDArray[np.float64]]:
    """Means in float less those of the rounded kernels, over all samples of some parts."""
    counts = sum((part.counts for part in parts), Counter[str]())
    means = {n: np.sum([part.sums[n] for part in parts if n in part.sums], 0) / count for n, count in counts.items()}
    return {
        u.node.output[0]: means[_mean(u, "float")] - means[_mean(u, "rounded")]
        for u in kernels.units
        if {_mean(u, "float"), _mean(u, "rounded")} <= means.keys()
    }


def correct(document: Document, changes: Mapping[str, NDArray[np.float64]]) -> None:
    """Add corrections to the biases of kernels, in place.

    Args:
        document: the float model.
        changes: corrections by the first output of the kernel.
    """
    editor = GraphEditor(document.proto.graph)
    for name, change in changes.items():
        if (node := editor.producer(name)) is not None:
            _add_to_bias(document, editor, node, change)
    editor.apply()


def _mean(unit: Unit, kind: str) -> str:
    return f"onnxquant/{unit.node.output[0]}/mean/{kind}"


def _simulation(document: Document, kernels: RoundedKernels) -> onnx.ModelProto:
    """An addition with a rounded twin of each kernel, and the channel means of both."""
    addition = onnx.ModelProto()
    rounded_inputs: dict[str, str] = {}
    for unit in kernels.units:
        x = unit.node.input[0]
        if x not in rounded_inputs:
            rounded_inputs[x] = _add_rounded_input(addition.graph, x, kernels)
        _add_twin(addition.graph, unit, rounded_inputs[x], kernels, document.opset)
    return addition


def _add_rounded_input(graph: onnx.GraphProto, x: str, kernels: RoundedKernels) -> str:
    """Add a tensor rounded to codes and back; returns its name."""
    parameters = kernels.codes.parameters(*kernels.ranges[kernels.placement.tensors[x].source])
    names = [f"onnxquant/{x}/scale", f"onnxquant/{x}/zero"]
    for name, value in zip(names, parameters, strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    codes, rounded = f"onnxquant/{x}/codes", f"onnxquant/{x}/rounded"
    graph.node.append(onnx.helper.make_node("QuantizeLinear", [x, *names], [codes]))
    graph.node.append(onnx.helper.make_node("DequantizeLinear", [codes, *names], [rounded]))
    return rounded


def _add_twin(graph: onnx.GraphProto, unit: Unit, rounded: str, kernels: RoundedKernels, opset: int) -> None:
    """Add a kernel with a rounded input and a rounded weight, and outputs with the channel means of both kernels."""
    base = f"onnxquant/{unit.node.output[0]}"
    weight = np.ascontiguousarray(kernels.decoded(unit.node.input[1]), np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weight, f"{base}/weight"))
    twin = onnx.NodeProto()
    twin.CopyFrom(unit.node)
    twin.name, twin.input[0], twin.input[1], twin.output[0] = f"{base}/node", rounded, f"{base}/weight", base
    graph.node.append(twin)
    axes = [0] if unit.node.op_type == "Gemm" else [i for i in range(weight.ndim) if i != 1]
    for source, kind in ((unit.node.output[0], "float"), (base, "rounded")):
        graph.node.append(_reduce(graph, source, _mean(unit, kind), axes, opset))
        graph.output.add(name=_mean(unit, kind))


def _reduce(graph: onnx.GraphProto, source: str, output: str, axes: list[int], opset: int) -> onnx.NodeProto:
    if opset < _AXES_AS_INPUT:
        return onnx.helper.make_node("ReduceMean", [source], [output], axes=axes, keepdims=0)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), f"{output}/axes"))
    return onnx.helper.make_node("ReduceMean", [source, f"{output}/axes"], [output], keepdims=0)


def _add_to_bias(document: Document, editor: GraphEditor, node: onnx.NodeProto, change: NDArray[np.float64]) -> None:
    tensor = editor.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    before = document.array(tensor) if tensor is not None else np.zeros(len(change), np.float32)
    after = before.astype(np.float64) + change.reshape(before.shape)
    editor.set_constant(node, 2, after.astype(before.dtype), f"{node.output[0]}/bias")
