"""Losses of integer kernels on x86 CPUs without VNNI, emulated on samples.

There a uint8 activation times an int8 weight is vpmaddubsw: two neighbouring products are added in int16, and the sum is
cut off at -32768 and 32767. With VNNI (vpdpbusd) and on other machines nothing is lost. Neighbours are those that lie
beside each other in the order in which ONNX Runtime packs a contraction: columns of a product; for a convolution the
kernel's positions outside, the input channels of a group inside (core/mlas/lib: qgemm_kernel_avx2.cpp, convsym.cpp;
core/providers/cpu/quantization/qlinearconv.cc). Depthwise convolutions and signed activations widen to 16 bits first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.graph.analysis.conv_windows import windows
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.functions import expand_kernels
from onnxquant.graph.io import Document
from onnxquant.graph.needs import is_depthwise
from onnxquant.graph.node import attribute
from onnxquant.numerics.decibels import decibels
from onnxquant.recipe.progress import Progress, silent

# A kernel that loses this much to saturation loses more than 8-bit rounding costs it.
SATURATED_DB = 35.0
# Number of samples that saturation is emulated on at most.
SATURATION_SAMPLES = 4
# Outputs that are computed again per kernel: positions in all samples together, and channels.
_POSITIONS, _CHANNELS = 64, 64
# The same where the largest sum of each row is looked for: all channels.
_POSITIONS_OF_PAIRS, _MOST_CHANNELS = 256, 1 << 30
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
    document = document.copy()
    expand_kernels(document.proto)
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


@dataclass(frozen=True)
class LargestPairs:
    """The largest sum of two products in each row of a weight, as a multiple of what 16 bits hold.

    Attributes:
        observed: the largest on samples; 0 for a row that no activations can saturate.
        possible: the largest with any activations.
    """

    observed: NDArray[np.float64]
    possible: NDArray[np.float64]


def largest_pairs(
    document: Document, feeds: Sequence[Feed], threads: int | None, names: Collection[str]
) -> dict[str, LargestPairs]:
    """The largest sums of two products in kernels.

    Args:
        document: the quantized file.
        feeds: the samples.
        threads: number of threads of the session; None: onnxruntime's choice.
        names: names of the kernels' nodes.

    Returns:
        by the name of the weight's tensor.
    """
    multiplying = [k for k in kernels(document) if k.name in names]
    sampler = _Sampler(np.random.default_rng(0), max(1, _POSITIONS_OF_PAIRS // len(feeds)), _MOST_CHANNELS)
    tensors = list(dict.fromkeys(k.x for k in multiplying))
    matrices = {k.name: _rows_of(k.node, document.array(k.weight)) for k in multiplying}
    largest = {k.weight.name: _no_pairs(matrices[k.name]) for k in multiplying}
    with runtime.session_of(document, tensors, threads=threads) as session:
        for feed in feeds:
            values = runtime.run(session, feed, tensors)
            for kernel in multiplying:
                matrix, observed = matrices[kernel.name], largest[kernel.weight.name].observed
                codes, zero = _codes_of(kernel, values[kernel.x])
                for piece in _pieces(kernel, codes, zero, kernel.weight.dims, sampler):
                    observed[piece.rows] = np.maximum(observed[piece.rows], _largest(piece.x, matrix[piece.rows]))
    return largest


def _no_pairs(matrix: NDArray[np.int8]) -> LargestPairs:
    """The largest sums of two products in the rows of a weight before any sample was looked at."""
    return LargestPairs(np.zeros(len(matrix)), possible_pairs(matrix))


def possible_pairs(matrix: NDArray[np.integer]) -> NDArray[np.float64]:
    """The largest sum of two products in each row of a weight with any activations, as a multiple of what 16 bits hold."""
    pairs = _in_pairs(matrix)
    positive, negative = np.maximum(pairs, 0).sum(2).max(1), np.maximum(-pairs, 0).sum(2).max(1)
    largest: NDArray[np.float64] = 255 * np.maximum(positive / HIGH, negative / -LOW)
    return largest


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
    exact = x.astype(np.int64) @ w.astype(np.int64).T
    change, count = np.zeros_like(exact), 0
    for part in _sums_of_pairs(x, w):
        cut = np.clip(part.sums, LOW, HIGH)
        count += int(np.count_nonzero(cut != part.sums))
        change[:, part.rows] = (cut - part.sums).sum(2, dtype=np.int64)
    return exact, change, count


def _largest(x: NDArray[np.uint8], w: NDArray[np.int8]) -> NDArray[np.float64]:
    """The largest magnitude of a sum of two products by row of w, as a multiple of what 16 bits hold; 0: no matter which."""
    largest = np.zeros(len(w))
    for part in _sums_of_pairs(x, w):
        largest[part.rows] = np.maximum(part.sums.max((0, 2)) / HIGH, part.sums.min((0, 2)) / LOW)
    return largest


def _in_pairs(rows: NDArray[np.integer]) -> NDArray[np.int32]:
    """Rows of codes as [rows, pairs, 2]."""
    return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).astype(np.int32).reshape(len(rows), -1, 2)


@dataclass(frozen=True)
class _Pairs:
    """Sums of two products.

    Attributes:
        rows: rows of the weight.
        sums: sums [positions, rows, pairs].
    """

    rows: NDArray[np.intp]
    sums: NDArray[np.int32]


def _sums_of_pairs(x: NDArray[np.uint8], w: NDArray[np.int8]) -> Iterator[_Pairs]:
    """Sums of two products of the rows that could saturate, a few rows at a time."""
    left, right = _in_pairs(x), _in_pairs(w)
    # No pair of weights smaller than this saturates, whatever the activations are.
    able = np.flatnonzero((np.abs(right).sum(2) * 255 > HIGH).any(1))
    step = max(1, _ELEMENTS // max(1, len(x) * left.shape[1]))
    for start in range(0, len(able), step):
        rows = able[start : start + step]
        yield _Pairs(rows, left[:, None, :, 0] * right[rows, :, 0] + left[:, None, :, 1] * right[rows, :, 1])


@dataclass(frozen=True)
class _Sampler:
    """Random choice of the outputs that are computed again.

    Attributes:
        random: source of randomness.
        positions: number of positions per sample.
        most_channels: largest number of channels.
    """

    random: np.random.Generator
    positions: int
    most_channels: int = _CHANNELS

    def channels(self, count: int) -> NDArray[np.intp]:
        """Some of ``count`` channels, in order."""
        return np.sort(self.random.permutation(count)[: self.most_channels])

    def places(self, count: int) -> NDArray[np.intp]:
        """Some of ``count`` positions."""
        return self.random.permutation(count)[: self.positions]


def _add(total: _Sum, kernel: Kernel, values: NDArray[Any], weight: NDArray[Any], sampler: _Sampler) -> None:
    """Compute some outputs of a kernel on one sample."""
    codes, zero = _codes_of(kernel, values)
    matrix = _rows_of(kernel.node, weight)
    scales = np.broadcast_to(kernel.scales.reshape(-1).astype(np.float64), (len(matrix),))
    for piece in _pieces(kernel, codes, zero, weight.shape, sampler):
        rows = piece.rows
        exact, change, saturating = multiply(piece.x, matrix[rows])
        exact = exact - zero * matrix[rows].sum(1, dtype=np.int64)
        total.pairs += change.size * -(-piece.x.shape[1] // 2)
        total.saturating += saturating
        total.signal += float(((exact * scales[rows]) ** 2).sum())
        total.noise += float(((change * scales[rows]) ** 2).sum())


@dataclass(frozen=True)
class _Piece:
    """A part of a kernel's work.

    Attributes:
        x: codes of activations [positions, contracted].
        rows: rows of the weight that are multiplied with them.
    """

    x: NDArray[np.uint8]
    rows: NDArray[np.intp]


def _pieces(
    kernel: Kernel, codes: NDArray[np.uint8], zero: int, shape: Sequence[int], sampler: _Sampler
) -> Iterator[_Piece]:
    """The parts of a kernel's work at some positions: one for each group of a convolution."""
    if not codes.size:
        return
    if kernel.node.op_type == "Conv":
        chosen = sampler.channels(shape[0])
        patches = windows(kernel.node, codes, shape, sampler.places, zero)
        channels, rows_per_group = shape[1], shape[0] // attribute(kernel.node, "group", 1)
        for g in np.unique(chosen // rows_per_group):
            x = patches[:, :, g * channels : (g + 1) * channels].reshape(len(patches), -1)
            yield _Piece(x, chosen[chosen // rows_per_group == g])
    else:
        is_transposed = kernel.node.op_type == "Gemm" and attribute(kernel.node, "transB", 0)
        flat = codes.reshape(-1, codes.shape[-1])
        yield _Piece(flat[sampler.places(len(flat))], sampler.channels(shape[0] if is_transposed else shape[-1]))


def _codes_of(kernel: Kernel, values: NDArray[Any]) -> tuple[NDArray[np.uint8], int]:
    """Codes of a kernel's activations, and the code of zero."""
    return (values, kernel.zero_point) if kernel.zero_point is not None else _codes(values)


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
