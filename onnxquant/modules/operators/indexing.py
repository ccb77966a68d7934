"""Elements by their places: slices, gathered and scattered ones, order."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxquant.modules.node import Node, Result, operator
from onnxquant.modules.numbers import axis_of, integers, integers_or

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Slice", numbers=(1, 2, 3, 4))
def slices(
    node: Node,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Parts along axes; steps may go backwards."""
    firsts, limits = integers_or(node, "starts", starts) or [], integers_or(node, "ends", ends) or []
    chosen = integers_or(node, "axes", axes) or list(range(len(firsts)))
    strides = [1] * len(firsts) if steps is None else integers(steps)
    for axis, first, limit, stride in zip(chosen, firsts, limits, strides, strict=True):
        places = range(x.shape[axis])[first:limit:stride]
        if stride > 0:
            x = x.movedim(axis, 0)[places.start : places.stop : stride].movedim(0, axis)
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


def _from_the_front(indices: Tensor, length: int) -> Tensor:
    """Indices without negative ones, which count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + length, indices)


@operator("Gather", numbers=(1,))
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of an axis by index."""
    axis = axis_of(node, 0, x.dim())
    places = _from_the_front(indices, x.shape[axis])
    rows = x.index_select(axis, places.reshape(-1))
    return rows.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("GatherElements", numbers=(1,))
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Elements by their place along an axis."""
    axis = axis_of(node, 0, x.dim())
    return torch.gather(x, axis, _from_the_front(indices, x.shape[axis]))


@operator("GatherND", numbers=(1,))
def gather_by_tuples(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices by indices of several axes."""
    batch_axes = node.get("batch_dims", 0)
    rank = indices.dim() - 1
    batches = [torch.arange(x.shape[axis]).reshape(-1, *[1] * (rank - 1 - axis)) for axis in range(batch_axes)]
    places: Tensor = x[(*batches, *indices.long().unbind(-1))]
    return places


@operator("ScatterElements", "Scatter", numbers=(1,))
def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A tensor with other elements at some places along an axis."""
    axis = axis_of(node, 0, x.dim())
    places, how = _from_the_front(indices, x.shape[axis]), node.get("reduction", "none")
    if how == "none":
        return torch.scatter(x, axis, places, updates)
    return torch.scatter_reduce(x, axis, places, updates, _REDUCTIONS[how])


@operator("ScatterND", numbers=(1,))
def scatter_by_tuples(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A tensor with other slices at indices of several axes."""
    places, how = indices.long().unbind(-1), node.get("reduction", "none")
    if how in ("none", "add"):
        return x.index_put(places, updates, accumulate=how == "add")
    count = len(places)
    flat = torch.zeros_like(places[0])
    for axis, place in enumerate(places):
        flat = flat * x.shape[axis] + _from_the_front(place, x.shape[axis])
    rows = x.reshape(x.shape[:count].numel(), -1)
    changes = updates.reshape(flat.numel(), -1)
    flat = flat.reshape(-1, 1).expand_as(changes)
    return torch.scatter_reduce(rows, 0, flat, changes, _REDUCTIONS[how]).reshape(x.shape)


@operator("Compress", numbers=(1,))
def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """Slices of an axis, or elements, that a condition names."""
    axis = node.attributes.get("axis")
    values = x.reshape(-1) if axis is None else x
    return values.index_select(axis or 0, condition.nonzero().reshape(-1))


@operator("NonZero")
def nonzero(node: Node, x: Tensor) -> Tensor:
    """Indices of the elements that are not zero: [axes, elements]."""
    return x.nonzero().T.reshape(x.dim(), -1)


@operator("Trilu", numbers=(1,))
def triangle(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """The upper or lower triangle of matrices."""
    offset = 0 if diagonal is None else int(diagonal.item())
    return torch.triu(x, offset) if node.get("upper", 1) else torch.tril(x, offset)


@operator("CumSum", numbers=(1,))
def running_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Sums up to each element, it included or not, from the front or the end."""
    along, is_reverse = int(axis.item()), node.get("reverse", 0)
    values = x.flip(along) if is_reverse else x
    total = values.cumsum(along).to(x.dtype)
    if node.get("exclusive", 0):
        total = total - values
    return total.flip(along) if is_reverse else total


@operator("TopK", numbers=(1,))
def largest_elements(node: Node, x: Tensor, count: Tensor | None = None) -> Result:
    """The largest or least elements along an axis, and their places; the first of equal ones first."""
    number = node.get("k", 0) if count is None else int(count.item())
    axis = axis_of(node, -1, x.dim())
    values, places = x.sort(dim=axis, descending=bool(node.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, number), places.narrow(axis, 0, number)


@operator("ReverseSequence", numbers=(1,))
def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first elements of each sequence in reverse order."""
    if node.get("time_axis", 0):
        return reversed_beginnings(x.transpose(0, 1), lengths).transpose(0, 1)
    return reversed_beginnings(x, lengths)


def reversed_beginnings(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The first elements of each sequence in reverse order, the others as they are.

    Args:
        x: [time, batch, ...].
        lengths: numbers of elements [batch]; None: all.
    """
    if lengths is None:
        return x.flip(0)
    places = torch.arange(x.shape[0]).reshape(-1, 1)
    sources = torch.where(places < lengths, lengths - 1 - places, places)
    return torch.gather(x, 0, sources.reshape(*sources.shape, *[1] * (x.dim() - 2)).expand(x.shape))
