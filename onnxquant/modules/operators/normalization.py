"""Normalizations and softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from onnxquant.modules.node import Node, Result, microsoft, operator
from onnxquant.modules.numbers import axis_of


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    """Values of each channel, as they apply to a tensor [batch, channels, ...]."""
    return values.reshape(-1, *[1] * (x.dim() - 2))


def _standard(x: Tensor, axes: list[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """A tensor less its mean over its deviation; the mean; one over the deviation."""
    mean = x.mean(axes, keepdim=True)
    factor = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    return (x - mean) * factor, mean, factor


# The statistics stay as they are: they are no parameters.
@operator("BatchNormalization", numbers=(3, 4))
def batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalization by stored statistics of each channel."""
    if node.get("training_mode", 0):
        raise node.refuse("training_mode is 1", "statistics that are stored")
    if not node.get("spatial", 1):
        raise node.refuse("spatial is 0", "statistics of channels")
    return F.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalization of each channel of each sample."""
    values, _, _ = _standard(x, list(range(2, x.dim())), node.get("epsilon", 1e-5))
    return values * _over_channels(scale, x) + _over_channels(bias, x)


@operator("GroupNormalization")
def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalization of groups of channels; before opset 21 scale and bias are those of groups."""
    groups = node.get("num_groups", 1)
    if node.opset < 21:
        scale, bias = (values.repeat_interleave(x.shape[1] // groups) for values in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@operator("MeanVarianceNormalization")
def mean_variance_norm(node: Node, x: Tensor) -> Tensor:
    """Values less their mean over their deviation."""
    return _standard(x, node.get("axes", [0, 2, 3]), 1e-9)[0]


@operator("LayerNormalization")
def layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Result:
    """Normalization over the last axes."""
    axes = list(range(axis_of(node, -1, x.dim()), x.dim()))
    epsilon = node.get("epsilon", 1e-5)
    if len(node.outputs) > 1:
        values, *statistics = _standard(x, axes, epsilon)
    else:
        values, statistics = F.layer_norm(x, [x.shape[axis] for axis in axes], eps=epsilon), []
    values = values * scale
    return (values if bias is None else values + bias, *statistics)


@operator("SimplifiedLayerNormalization", "RMSNormalization")
@microsoft("SimplifiedLayerNormalization")
def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Result:
    """Values over their root mean square over the last axes."""
    axes = list(range(axis_of(node, -1, x.dim()), x.dim()))
    factor = torch.rsqrt(x.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5))
    return x * factor * scale, factor


@microsoft("SkipLayerNormalization")
def skip_layer_norm(
    node: Node,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> Result:
    """Layer normalization of a sum; the sum is the fourth output."""
    total = x + skip if bias is None else x + skip + bias
    values, mean, factor = _standard(total, [-1], node.get("epsilon", 1e-12))
    values = values * scale
    return values if shift is None else values + shift, mean, factor, total


@microsoft("SkipSimplifiedLayerNormalization")
def skip_rms_norm(node: Node, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None) -> Result:
    """A sum over its root mean square; the sum is the fourth output."""
    total = x + skip if bias is None else x + skip + bias
    factor = torch.rsqrt(total.square().mean(-1, keepdim=True) + node.get("epsilon", 1e-5))
    return total * factor * scale, torch.empty(0), factor, total


@microsoft("EmbedLayerNormalization")
def embed_layer_norm(
    node: Node,
    ids: Tensor,
    segment_ids: Tensor | None,
    words: Tensor,
    places: Tensor,
    segments: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Result:
    """Layer normalization of the sum of embeddings; lengths of the texts; the sum."""
    where = torch.arange(ids.shape[1]) if position_ids is None else position_ids.long()
    total = F.embedding(ids.long(), words) + F.embedding(where, places)
    if segments is not None and segment_ids is not None:
        total = total + F.embedding(segment_ids.long(), segments)
    values = _standard(total, [-1], node.get("epsilon", 1e-12))[0] * scale + shift
    lengths = torch.zeros(len(ids)) if mask is None else mask.sum(1)
    return values, lengths.int(), total


@operator("LpNormalization")
def lp_norm(node: Node, x: Tensor) -> Tensor:
    """Values over their norm along an axis."""
    norm = torch.linalg.vector_norm(x, node.get("p", 2), node.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("LRN")
def local_response_norm(node: Node, x: Tensor) -> Tensor:
    """Values over a power of the squares of channels around them."""
    size = node.get("size", 1)
    squares = torch.zeros_like(x[:, : size - 1])
    before = (size - 1) // 2
    squares = torch.cat([squares[:, :before], x.square(), squares[:, before:]], 1)
    total = squares.unfold(1, size, 1).sum(-1)
    return x / (node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total) ** node.get("beta", 0.75)


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Shares that add up to one, or their logarithms. Before opset 13 they are those of an axis and all behind it."""
    function = torch.softmax if node.op == "Softmax" else torch.log_softmax
    if node.opset >= 13:
        return function(x, node.get("axis", -1))
    return function(x.flatten(axis_of(node, 1, x.dim())), -1).reshape(x.shape)


@operator("Dropout")
def dropout(node: Node, x: Tensor, *_: Tensor | None) -> Result:
    """All values: none is dropped; the mask says so."""
    return x, torch.ones_like(x, dtype=torch.bool)
