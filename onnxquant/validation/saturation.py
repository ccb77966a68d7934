"""Losses of integer kernels on x86 CPUs without VNNI, emulated on samples.

There a uint8 activation times an int8 weight is vpmaddubsw: two neighbouring products are added in int16, and the sum is
cut off at -32768 and 32767. With VNNI (vpdpbusd) and on other machines nothing is lost. Neighbours are those that lie
beside each other in the order in which ONNX Runtime packs a contraction: columns of a product; for a convolution the
kernel's positions outside, the input channels of a group inside (core/mlas/lib: qgemm_kernel_avx2.cpp, convsym.cpp;
core/providers/cpu/quantization/qlinearconv.cc). Depthwise convolutions and signed activations widen to 16 bits first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.graph.analysis.conv_windows import windows
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.needs import is_depthwise
from onnxquant.graph.node import attribute
from onnxquant.numerics.decibels import decibels
from onnxquant.recipe.progress import Progress, silent

# Outputs that are computed again per kernel: positions in all samples together, and channels.
_POSITIONS, _CHANNELS = 64, 64
# Elements of intermediate results at a time.
_ELEMENTS = 1 << 21
# Ops on activations that are rounded per call, with the place of the weight's scales among their inputs.
_PLACES_OF_SCALES = {"DynamicQuantizeMatMul": 2, "MatMulIntegerToFloat": 3}
LOW, HIGH = -(1 << 15), (1 << 15) - 1


@dataclass(frozen=True)
class Kernel:
    """An op that multiplies uint8 activations with int8 weights.

    Attributes:
        node: the op.
        x: tensor of its activations: codes, or floats where they are rounded per call.
        zero_point: code of zero; None where it depends on the call.
        weight: codes of the weight.
        scales: scales of the weight, one or one per output channel.
    """

    node: onnx.NodeProto
    x: str
    zero_point: int | None
    weight: onnx.TensorProto
    scales: NDArray[Any]

    @property
    def name(self) -> str:
        """Name of the node, or of its output where it has none."""
        return str(self.node.name or self.node.output[0])


@dataclass(frozen=True)
class SaturationLoss:
    """Loss of one kernel.

    Attributes:
        pairs: number of pairs of products that were looked at.
        saturating: number of pairs whose sum was cut off.
        sqnr_db: power of the exact outputs over that of the loss, in decibels.
    """

    pairs: int
    saturating: int
    sqnr_db: float


@dataclass
class _Sum:
    """Powers and counts of one kernel, summed over samples."""

    pairs: int = 0
    saturating: int = 0
    signal: float = 0.0
    noise: float = 0.0

    def loss(self) -> SaturationLoss:
        return SaturationLoss(self.pairs, self.saturating, decibels(self.signal, self.noise))


def emulate(
    document: Document, feeds: Sequence[Feed], threads: int | None, progress: Progress = silent
) -> dict[str, SaturationLoss]:
    """The loss of each kernel of a quantized file that could have one, by the name of its node.

    Args:
        document: the quantized file.
        feeds: the samples.
        threads: number of threads of the session; None: onnxruntime's choice.
        progress: callback for the stage and the part of it that is done.
    """
    multiplying = kernels(document)
    if not multiplying or not feeds:
        return {}
    progress("saturation without VNNI", 0.0)
    sums = {k.name: _Sum() for k in multiplying}
    sampler = _Sampler(np.random.default_rng(0), max(1, _POSITIONS // len(feeds)))
    names = list(dict.fromkeys(k.x for k in multiplying))
    with runtime.session_of(document, names, threads=threads) as session:
        for feed in feeds:
            values = runtime.run(session, feed, names)
            for kernel in multiplying:
                _add(sums[kernel.name], kernel, values[kernel.x], document.array(kernel.weight), sampler)
    return {name: total.loss() for name, total in sums.items()}


def kernels(document: Document) -> list[Kernel]:
    """The ops of the top graph that vpmaddubsw would compute."""
    editor = GraphEditor(document.proto.graph)
    multiplying = []
    for node in editor.nodes:
        if node.op_type in _PLACES_OF_SCALES:
            weight, scales = (
                editor.constant(node.input[1]),
                editor.constant(node.input[_PLACES_OF_SCALES[node.op_type]]),
            )
            if weight is not None and scales is not None and weight.data_type == onnx.TensorProto.INT8:
                multiplying.append(Kernel(node, _floats_before(editor, node), None, weight, document.array(scales)))
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        sides = [editor.producer(name) for name in node.input[:2]]
        if any(side is None or side.op_type != "DequantizeLinear" or len(side.input) < 3 for side in sides):
            continue
        x, w = (side for side in sides if side is not None)
        zero, weight, scales = editor.constant(x.input[2]), editor.constant(w.input[0]), editor.constant(w.input[1])
        if zero is None or weight is None or scales is None or weight.data_type != onnx.TensorProto.INT8:
            continue
        if zero.data_type == onnx.TensorProto.UINT8 and not (node.op_type == "Conv" and is_depthwise(node, weight)):
            multiplying.append(Kernel(node, x.input[0], int(document.array(zero)), weight, document.array(scales)))
    return multiplying


def _floats_before(editor: GraphEditor, node: onnx.NodeProto) -> str:
    """The activation of a product before it is rounded in the call."""
    rounding = editor.producer(node.input[0])
    is_shared = rounding is not None and rounding.op_type == "DynamicQuantizeLinear"
    return str(rounding.input[0] if rounding is not None and is_shared else node.input[0])


def multiply(x: NDArray[np.uint8], w: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Products of rows of codes as vpmaddubsw makes them.

    Args:
        x: activations [positions, contracted].
        w: weights [channels, contracted].

    Returns:
        exact sums [positions, channels], what saturation changes in each, and the number of pairs that saturate.
    """
    odd = x.shape[1] % 2
    left = np.pad(x, ((0, 0), (0, odd))).astype(np.int32).reshape(len(x), -1, 2)
    right = np.pad(w, ((0, 0), (0, odd))).astype(np.int32).reshape(len(w), -1, 2)
    exact = x.astype(np.int64) @ w.astype(np.int64).T
    change, count = np.zeros_like(exact), 0
    # No pair of weights smaller than this saturates, whatever the activations are.
    able = np.flatnonzero((np.abs(right).sum(2) * 255 > HIGH).any(1))
    step = max(1, _ELEMENTS // max(1, len(x) * left.shape[1]))
    for start in range(0, len(able), step):
        rows = able[start : start + step]
        sums = left[:, None, :, 0] * right[rows, :, 0] + left[:, None, :, 1] * right[rows, :, 1]
        cut = np.clip(sums, LOW, HIGH)
        count += int(np.count_nonzero(cut != sums))
        change[:, rows] = (cut - sums).sum(2, dtype=np.int64)
    return exact, change, count


@dataclass(frozen=True)
class _Sampler:
    """Random choice of the outputs that are computed again.

    Attributes:
        random: source of randomness.
        positions: number of positions per sample.
    """

    random: np.random.Generator
    positions: int

    def channels(self, count: int) -> NDArray[np.intp]:
        """Some of ``count`` channels, in order."""
        return np.sort(self.random.permutation(count)[:_CHANNELS])

    def places(self, count: int) -> NDArray[np.intp]:
        """Some of ``count`` positions."""
        return self.random.permutation(count)[: self.positions]


def _add(total: _Sum, kernel: Kernel, values: NDArray[Any], weight: NDArray[Any], sampler: _Sampler) -> None:
    """Compute some outputs of a kernel on one sample."""
    codes, zero = (values, kernel.zero_point) if kernel.zero_point is not None else _codes(values)
    matrix = _rows_of(kernel.node, weight)
    chosen = sampler.channels(len(matrix))
    scales = np.broadcast_to(kernel.scales.reshape(-1).astype(np.float64), (len(matrix),))
    if kernel.node.op_type == "Conv":
        patches = windows(kernel.node, codes, weight.shape, sampler.places, zero)
        channels, rows_per_group = weight.shape[1], len(matrix) // attribute(kernel.node, "group", 1)
        parts = [(g, chosen[chosen // rows_per_group == g]) for g in np.unique(chosen // rows_per_group)]
        pieces = [(patches[:, :, g * channels : (g + 1) * channels].reshape(len(patches), -1), r) for g, r in parts]
    else:
        flat = codes.reshape(-1, codes.shape[-1])
        pieces = [(flat[sampler.places(len(flat))], chosen)]
    for x, rows in pieces if codes.size else []:
        exact, change, saturating = multiply(x, matrix[rows])
        exact = exact - zero * matrix[rows].sum(1, dtype=np.int64)
        total.pairs += change.size * -(-x.shape[1] // 2)
        total.saturating += saturating
        total.signal += float(((exact * scales[rows]) ** 2).sum())
        total.noise += float(((change * scales[rows]) ** 2).sum())


def _codes(values: NDArray[Any]) -> tuple[NDArray[np.uint8], int]:
    """Floats as DynamicQuantizeLinear rounds them: uint8 over their own range, which holds zero."""
    low, high = min(float(values.min(initial=0)), 0.0), max(float(values.max(initial=0)), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8), zero


def _rows_of(node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    """The weight as [output channels, contracted] in the order in which it is packed."""
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    return weight if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight.T
