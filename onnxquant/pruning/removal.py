"""Channels that leave a graph: which count least, and the smaller constants and numbers that nodes then have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import set_attribute
from onnxquant.pruning.channels import Channels, Group
from onnxquant.pruning.labels import Labels, Part
from onnxquant.pruning.records import RemovedChannels
from onnxquant.pruning.values import set_values

# Numbers of channels from which whole vectors of 8, and of 16, are to be left.
_FEW, _MANY = 16, 128
# Sums of squares of a weight's inputs, in the shape of the weight, by its name; None: not known.
Energies = Callable[[str], NDArray[Any] | None]


def leaving(count: int, part: float) -> int:
    """Number of channels that leave of so many: at most the part, and so that kernels have whole vectors left.

    onnxruntime computes 8 or 16 channels at a time; others cost as much as the next multiple, or more. Of few any may leave.
    """
    vector = 16 if count >= _MANY else 8 if count >= _FEW else 1
    return max(0, count - -(-(count - int(part * count)) // vector) * vector)


def least(document: Document, group: Group, channels: Channels, part: float, energy: Energies) -> Labels:
    """The channels of a group that count least.

    By magnitude a channel counts by its part of the squares of the weights that make and read it; where the inputs of a
    reader are known, by its part of the squares that it adds to what the reader computes.

    Args:
        document: the model.
        group: channels that may leave.
        channels: those of the model.
        part: part of them that leaves.
        energy: function that gives the sums of squares of a weight's inputs.
    """
    going = leaving(len(group.labels), part)
    score = np.zeros(int(group.labels.max(initial=0)) + 1)
    tensors = {t.name: t for t in document.proto.graph.initializer}
    reads = [cut for cut in group.cuts if cut.part is Part.READS]
    is_known = any(energy(cut.tensor) is not None for cut in reads)
    for cut in reads if is_known else [cut for cut in group.cuts if cut.part is not Part.FOLLOWS]:
        squares = np.square(np.asarray(document.array(tensors[cut.tensor]), np.float64))
        known = energy(cut.tensor)
        if known is not None:
            squares *= known
        by_place = squares.sum(axis=tuple(axis for axis in range(squares.ndim) if axis != cut.axis))
        roots, mine = channels.roots(cut.labels), by_place / (by_place.sum() or 1.0)
        belongs = np.isin(roots, group.labels)
        np.add.at(score, roots[belongs], mine[belongs])
    return group.labels[np.sort(np.argsort(score[group.labels], kind="stable")[:going])]


def place_of(group: Group, channels: Channels, going: Labels) -> RemovedChannels:
    """Channels of a group by their places in the first constant that has them."""
    first = group.cuts[0]
    places = np.flatnonzero(np.isin(channels.roots(first.labels), going))
    return RemovedChannels(first.tensor, first.axis, tuple(places.tolist()))


def labels_of(channels: Channels, removed: Sequence[RemovedChannels]) -> Labels:
    """The labels of channels that are known by their places in constants; those of other models are left out."""
    labels = [np.empty(0, np.int64)]
    for entry in removed:
        cut = next((c for c in channels.cuts if (c.tensor, c.axis) == (entry.tensor, entry.axis)), None)
        if cut is not None and max(entry.channels, default=0) < len(cut.labels):
            labels.append(channels.roots(cut.labels)[list(entry.channels)])
    return np.unique(np.concatenate(labels))


def remove(document: Document, channels: Channels, going: Labels) -> None:
    """Take channels out of a graph, in place.

    Args:
        document: the model.
        channels: its channels.
        going: labels of those that leave, each one that stands for its channel.
    """
    tensors = {t.name: t for t in document.proto.graph.initializer}
    staying: dict[tuple[str, int], NDArray[np.bool_]] = {
        (cut.tensor, cut.axis): ~np.isin(channels.roots(cut.labels), going) for cut in channels.cuts
    }
    smaller: dict[str, NDArray[Any]] = {}
    for (name, axis), stays in staying.items():
        if not stays.all():
            values = smaller[name] if name in smaller else document.array(tensors[name])
            smaller[name] = np.compress(stays, values, axis=axis)
    for name, values in smaller.items():
        set_values(document, tensors[name], values)
    editor = GraphEditor(document.proto.graph)
    for count in channels.counts:
        numbers = [int((~np.isin(channels.roots(labels), going)).sum()) for labels in count.labels]
        if numbers != [len(labels) for labels in count.labels]:
            _state(document, editor, count.node, numbers)
    editor.apply()
    changed = set(channels.changed)
    graph = document.proto.graph
    for index in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[index].name in changed:
            del graph.value_info[index]


def _state(document: Document, editor: GraphEditor, node: onnx.NodeProto, numbers: Sequence[int]) -> None:
    """Let a node state other numbers of channels."""
    if node.op_type == "Conv":
        set_attribute(node, "group", numbers[0])
    elif node.op_type == "Split":
        set_attribute(node, "num_outputs", None)
        editor.set_constant(node, 1, np.array(numbers, np.int64))
    else:
        shape = editor.constant(node.input[1])
        assert shape is not None
        target = document.array(shape).copy()
        target[1] = numbers[0]
        editor.set_constant(node, 1, target)

