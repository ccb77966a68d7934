"""Operators that hand labels of channels on. Each function gives the reason why channels of the inputs have to stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute
from onnxquant.pruning.labels import Axis, ChannelLabels, Count, Part

Handler = Callable[[ChannelLabels, onnx.NodeProto], str]

_UNARY = {
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Clip", "Elu", "Selu", "Celu", "Softplus", "Softsign",
    "Erf", "Gelu", "Abs", "Neg", "Exp", "Log", "Sqrt", "Identity", "Cast", "Mish", "Swish", "Reciprocal", "ThresholdedRelu",
    "QuickGelu", "FastGelu", "Dropout",
}  # fmt: skip
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "PRelu", "BiasGelu"}
_POOLS = {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
_REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"}


def follow(c: ChannelLabels, node: onnx.NodeProto) -> None:
    """Hand the labels of a node's inputs to its outputs, or lock them."""
    handler = _HANDLERS.get(node.op_type) if node.domain in (*STANDARD, MICROSOFT) else None
    reason = handler(c, node) if handler and node.input else f"read by {node.op_type}, which is not followed"
    if reason:
        c.lock_all(node.input, reason)


def conv(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A convolution reads the channels of its input, and makes others."""
    weight, source, group = c.weight(node, 1), c.axes.get(node.input[0]), attribute(node, "group", 1)
    if weight is None:
        return "a convolution whose weight is computed"
    axis, is_transposed = 1 - len(weight.dims), node.op_type == "ConvTranspose"
    if source is not None and source.axis != axis:
        return "a convolution over them"
    if group != 1:
        return _depthwise(c, node, weight, source)
    rows, cols = (1, 0) if is_transposed else (0, 1)
    c.reads[weight.name] += 1
    if source is not None:
        c.cut(weight.name, cols, source.labels, Part.READS)
    labels = c.make(node, axis, weight, rows)
    reason = c.vector(node, 2, labels)
    if reason:
        c.lock(labels, reason)
    return ""


def _depthwise(c: ChannelLabels, node: onnx.NodeProto, weight: onnx.TensorProto, source: Axis | None) -> str:
    """A convolution in groups: those of one channel each go with it, others stay whole."""
    group = attribute(node, "group", 1)
    if node.op_type != "Conv" or weight.dims[1] != 1:
        return "a convolution in groups"
    if source is None or len(source.labels) != group:
        return ""
    labels = np.repeat(source.labels, int(weight.dims[0]) // group)
    c.reads[weight.name] += 1
    c.cut(weight.name, 0, labels, Part.FOLLOWS)
    c.counts.append(Count(node, (source.labels,)))
    c.hand_on(node, labels=labels)
    return c.vector(node, 2, labels)


def gemm(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A product of matrices reads the channels of its input, and makes others."""
    weight, source = c.weight(node, 1), c.axes.get(node.input[0])
    if weight is None or attribute(node, "transA", 0) or (source is not None and source.axis != -1):
        return "a product that has them elsewhere"
    rows, cols = (0, 1) if attribute(node, "transB", 0) else (1, 0)
    c.reads[weight.name] += 1
    if source is not None:
        c.cut(weight.name, cols, source.labels, Part.READS)
    labels = c.make(node, -1, weight, rows)
    if len(node.input) > 2 and node.input[2]:
        reason = c.with_others(node, 2, Axis(-1, labels))
        if reason:
            c.lock(labels, reason)
    return ""


def matmul(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A product with a matrix reads the channels of its input, and makes others."""
    weight, source = c.weight(node, 1), c.axes.get(node.input[0])
    if weight is None or len(weight.dims) != 2 or (source is not None and source.axis != -1):
        return "a product that has them elsewhere, or with a computed tensor"
    c.reads[weight.name] += 1
    if source is not None:
        c.cut(weight.name, 0, source.labels, Part.READS)
    c.make(node, -1, weight, 1)
    return ""


def normalization(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A normalization has constants for each channel."""
    source = c.axes.get(node.input[0])
    if source is None:
        return ""
    if not c.on_second_axis(node.input[0]):
        return f"a {node.op_type} of them elsewhere"
    c.hand_on(node)
    return next((r for i in range(1, len(node.input)) if (r := c.vector(node, i, source.labels))), "")


def unary(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """The channels of the input."""
    c.hand_on(node)
    return ""


def elementwise(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """The channels of all inputs, which leave together."""
    axes = [c.axes[name] for name in node.input if name in c.axes]
    if not axes:
        return ""
    widest = max(axes, key=lambda a: len(a.labels))
    if any(a.axis != widest.axis for a in axes):
        return f"a {node.op_type} of channels on other axes"
    for axis in axes:
        if len(axis.labels) == len(widest.labels):
            c.join(widest.labels, axis.labels)
        elif len(axis.labels) != 1:
            return f"a {node.op_type} of other channels"
    c.axes[node.output[0]] = widest
    for position, name in enumerate(node.input):
        if name not in c.axes and (reason := c.with_others(node, position, widest)):
            return reason
    return ""


def pool(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A pool over positions leaves channels as they are."""
    if node.input[0] not in c.axes:
        return ""
    if not c.on_second_axis(node.input[0]) or any(node.output[1:]):
        return f"a {node.op_type} over them"
    c.hand_on(node)
    return ""


def pad(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A Pad of positions leaves channels as they are."""
    if node.input[0] not in c.axes:
        return ""
    place, pads = c.place(node.input[0]), c.numbers(node, 1) or attribute(node, "pads", None)
    if place is None or pads is None or any(node.input[3:]) or len(pads) <= place:
        return "a Pad that may change their number"
    if pads[place] or pads[len(pads) // 2 + place]:
        return "a Pad of their axis"
    c.hand_on(node)
    return ""


def resize(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A Resize of positions leaves channels as they are."""
    if node.input[0] not in c.axes:
        return ""
    place, position = c.place(node.input[0]), 1 if node.op_type == "Upsample" else 2
    tensor = c.weight(node, position)
    scales = None if tensor is None else c.document.array(tensor).reshape(-1)
    if place is None or scales is None or len(scales) <= place or scales[place] != 1 or any(node.input[3:]):
        return "a Resize that states their number"
    c.hand_on(node)
    return ""


def concat(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """The channels of the inputs one after the other."""
    axes = [c.axes[name] for name in node.input if name in c.axes]
    if not axes:
        return ""
    rank = next((r for name in node.input if (r := c.shape(name).rank) is not None), None)
    where = axes[0].axis
    if rank is None or any(a.axis != where for a in axes):
        return "a Concat of channels on other axes"
    along = attribute(node, "axis", 0)
    if (along if along < 0 else along - rank) != where:
        return _beside(c, node, axes)
    parts = []
    for name in node.input:
        if name in c.axes:
            parts.append(c.axes[name].labels)
            continue
        length = (c.shape(name).shape or (None,))[where]
        if length is None:
            return "a Concat with a tensor of unknown shape"
        parts.append(c.fresh(length))
        c.lock(parts[-1], "a Concat with channels of no weight")
    c.axes[node.output[0]] = Axis(where, np.concatenate(parts))
    return ""


def _beside(c: ChannelLabels, node: onnx.NodeProto, axes: Sequence[Axis]) -> str:
    """A Concat along another axis: the same channels of every input."""
    if len(axes) != len(node.input) or len({len(a.labels) for a in axes}) != 1:
        return "a Concat with channels of no weight"
    for axis in axes[1:]:
        c.join(axes[0].labels, axis.labels)
    c.axes[node.output[0]] = axes[0]
    return ""


def split(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """Parts of the channels."""
    source = c.axes.get(node.input[0])
    if source is None:
        return ""
    rank, along = c.shape(node.input[0]).rank, attribute(node, "axis", 0)
    if rank is None:
        return "a Split of unknown shape"
    if (along if along < 0 else along - rank) != source.axis:
        for name in node.output:
            c.axes[name] = source
        return ""
    sizes = c.numbers(node, 1) or attribute(node, "split", None)
    count, length = len(node.output), len(source.labels)
    if sizes is None and length % count == 0:
        sizes = [length // count] * count
    if sizes is None or len(sizes) != count or sum(sizes) != length or c.document.opset < 13:
        return "a Split into parts of unknown sizes"
    parts = np.split(source.labels, np.cumsum(sizes)[:-1])
    for name, part in zip(node.output, parts, strict=True):
        c.axes[name] = Axis(source.axis, part)
    c.counts.append(Count(node, tuple(parts)))
    return ""


def transpose(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """The channels on another axis."""
    if node.input[0] not in c.axes:
        return ""
    perm = attribute(node, "perm", None)
    rank = c.shape(node.input[0]).rank if perm is None else len(perm)
    if rank is None:
        return "a Transpose of unknown shape"
    order = list(range(rank))[::-1] if perm is None else list(perm)
    c.hand_on(node, axis=order.index(rank + c.axes[node.input[0]].axis) - rank)
    return ""


def flatten(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """The channels repeated for every position: a Flatten, or a Reshape that is one."""
    source = c.axes.get(node.input[0])
    if source is None:
        return ""
    shape, place = c.shape(node.input[0]).shape, c.place(node.input[0])
    behind = None if shape is None or place != 1 else shape[2:]
    if behind is None or any(length is None for length in behind):
        return f"a {node.op_type} of unknown shape, or that joins them with others"
    labels = np.repeat(source.labels, int(np.prod([n for n in behind if n is not None], dtype=np.int64)))
    if node.op_type == "Flatten":
        if attribute(node, "axis", 1) not in (1, 1 - len(shape or ())):
            return "a Flatten that joins them with others"
    else:
        target = c.numbers(node, 1)
        is_flat = target is not None and len(target) == 2 and target[1] in (-1, len(labels))
        if target is None or not is_flat or target[0] not in (-1, 0, (shape or (None,))[0]):
            return "a Reshape that joins them with others"
        if target[1] != -1:
            c.counts.append(Count(node, (labels,)))
    c.axes[node.output[0]] = Axis(-1, labels)
    return ""


def squeeze(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """Squeeze, Unsqueeze and reductions: axes behind the channels come or go."""
    if node.input[0] not in c.axes:
        return ""
    op, rank, place = node.op_type, c.shape(node.input[0]).rank, c.place(node.input[0])
    axes = c.numbers(node, 1) or attribute(node, "axes", None)
    if rank is None or place is None or axes is None:
        return f"a {op} of unknown axes"
    total = rank + len(axes) if op == "Unsqueeze" else rank
    chosen = {axis % total for axis in axes}
    if op == "Unsqueeze":
        place = [i for i in range(total) if i not in chosen][place]
        c.hand_on(node, axis=place - total)
        return ""
    if place in chosen:
        return f"a {op} over them"
    stays = op != "Squeeze" and attribute(node, "keepdims", 1)
    left = rank if stays else rank - len(chosen)
    front = place if stays else place - sum(axis < place for axis in chosen)
    c.hand_on(node, axis=front - left)
    return ""


def softmax(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A Softmax over other axes leaves channels as they are."""
    if node.input[0] not in c.axes:
        return ""
    rank = c.shape(node.input[0]).rank
    along = attribute(node, "axis", -1)
    if c.document.opset < 13 or rank is None or along % rank == c.place(node.input[0]):
        return f"a {node.op_type} over them"
    c.hand_on(node)
    return ""


def slices(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A Slice of other axes leaves channels as they are."""
    if node.input[0] not in c.axes:
        return ""
    rank, axes = c.shape(node.input[0]).rank, c.numbers(node, 3)
    if rank is None or axes is None or c.place(node.input[0]) in {axis % rank for axis in axes}:
        return "a Slice of them"
    c.hand_on(node)
    return ""


def shape(c: ChannelLabels, node: onnx.NodeProto) -> str:
    """A Shape of which only other axes are read."""
    if node.input[0] not in c.axes:
        return ""
    place, graph = c.place(node.input[0]), c.document.proto.graph
    readers = [n for n in graph.node if node.output[0] in n.input]
    for reader in readers:
        indices = c.numbers(reader, 1) if reader.op_type == "Gather" else None
        if place is None or indices is None or place in indices or any(i < 0 for i in indices):
            return "a Shape that counts them"
    return ""


_HANDLERS: dict[str, Handler] = {
    "Conv": conv, "ConvTranspose": conv, "Gemm": gemm, "MatMul": matmul,
    "BatchNormalization": normalization, "InstanceNormalization": normalization, "Pad": pad,
    "Resize": resize, "Upsample": resize, "Concat": concat, "Split": split,
    "Transpose": transpose, "Flatten": flatten, "Reshape": flatten, "Squeeze": squeeze,
    "Unsqueeze": squeeze, "Softmax": softmax, "LogSoftmax": softmax, "Slice": slices,
    "Shape": shape,
    **dict.fromkeys(_UNARY, unary), **dict.fromkeys(_ELEMENTWISE, elementwise),
    **dict.fromkeys(_POOLS, pool), **dict.fromkeys(_REDUCTIONS, squeeze),
}  # fmt: skip
