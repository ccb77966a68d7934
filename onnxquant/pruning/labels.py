"""Labels of channels while a graph is walked through: joined where channels leave together, locked where they cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.io import Document
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.sites import FLOATS

Labels = NDArray[np.int64]


class Part(Enum):
    """Parts that a constant has in a channel."""

    MAKES = auto()
    """The rows of a weight that make the channel."""
    READS = auto()
    """The columns of a weight that read it."""
    FOLLOWS = auto()
    """Biases, normalizations and the like."""


@dataclass(frozen=True, eq=False)
class Cut:
    """An axis of a constant on which channels lie.

    Attributes:
        tensor: name of the constant.
        axis: the axis.
        labels: label of each place.
        part: part of the constant in the channels.
    """

    tensor: str
    axis: int
    labels: Labels
    part: Part


@dataclass(frozen=True, eq=False)
class Count:
    """Numbers in a node that count channels.

    Attributes:
        node: the node.
        labels: labels by place: groups of a convolution, the channels of a Reshape, the sizes of a Split.
    """

    node: onnx.NodeProto
    labels: tuple[Labels, ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """The channels of a tensor.

    Attributes:
        axis: their axis, counted from the end: -1 is the last.
        labels: label of each channel.
    """

    axis: int
    labels: Labels


class ChannelLabels:
    """The labels of a model's main graph so far.

    Args:
        document: the model, prepared.

    Attributes:
        document: the model.
        constants: its constants by name.
        axes: the channels of each tensor that has any.
        cuts: axes of constants on which channels lie.
        counts: numbers in nodes that count channels.
        locks: the reason why a channel cannot leave, by label.
        reads: number of inputs of nodes that were followed, by constant.
    """

    def __init__(self, document: Document) -> None:
        self.document, graph = document, document.proto.graph
        self._known = infer(document)
        inputs = {value.name for value in graph.input}
        self.constants = {t.name: t for t in graph.initializer if t.name not in inputs}
        self.axes: dict[str, Axis] = {}
        self._parents: list[int] = []
        self.locks: dict[int, str] = {}
        self.reads: Counter[str] = Counter()
        self.cuts: list[Cut] = []
        self.counts: list[Count] = []

    @property
    def count(self) -> int:
        """Number of labels."""
        return len(self._parents)

    def fresh(self, count: int) -> Labels:
        """New labels."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def root(self, label: int) -> int:
        """The label that stands for one, of those that are joined with it."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def join(self, one: Labels, other: Labels) -> None:
        """Let channels leave together, one of each with one of the other."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            first, second = sorted((self.root(a), self.root(b)))
            self._parents[second] = first

    def lock(self, labels: Labels, reason: str) -> None:
        """Let channels stay, for a reason."""
        for label in labels.tolist():
            self.locks.setdefault(label, reason)

    def lock_all(self, names: Iterable[str], reason: str) -> None:
        """Let the channels of some tensors stay."""
        for name in names:
            if name in self.axes:
                self.lock(self.axes[name].labels, reason)

    def cut(self, name: str, axis: int, labels: Labels, part: Part) -> None:
        """Note that channels lie on an axis of a constant; those of another reader of it are the same ones."""
        for cut in self.cuts:
            if (cut.tensor, cut.axis) == (name, axis):
                self.join(cut.labels, labels)
        self.cuts.append(Cut(name, axis, labels, part))

    # --- inputs and outputs of nodes

    def weight(self, node: onnx.NodeProto, position: int) -> onnx.TensorProto | None:
        """The constant floats of an input; None where it is none."""
        name = node.input[position] if position < len(node.input) else ""
        tensor = self.constants.get(name)
        return tensor if tensor is not None and tensor.data_type in FLOATS else None

    def numbers(self, node: onnx.NodeProto, position: int) -> list[int] | None:
        """The whole numbers of a constant input; None where it is none, or left out."""
        name = node.input[position] if position < len(node.input) else ""
        tensor = self.constants.get(name)
        return None if tensor is None else [int(n) for n in np.asarray(self.document.array(tensor)).reshape(-1)]

    def shape(self, name: str) -> Known:
        """Type and shape of a tensor, as far as they are known."""
        if name in self.constants:
            return Known(self.constants[name].data_type, tuple(self.constants[name].dims))
        return self._known.get(name, UNKNOWN)

    def place(self, name: str) -> int | None:
        """The axis of a tensor's channels, counted from the front; None where its rank is not known."""
        rank = self.shape(name).rank
        return None if rank is None else rank + self.axes[name].axis

    def on_second_axis(self, name: str) -> bool:
        """Whether the channels of a tensor are on its second axis."""
        return self.place(name) == 1

    def hand_on(self, node: onnx.NodeProto, axis: int | None = None, labels: Labels | None = None) -> None:
        """Give the first output the labels of the first input, perhaps others, or on another axis."""
        source = self.axes.get(node.input[0])
        if source is not None:
            self.axes[node.output[0]] = Axis(
                source.axis if axis is None else axis, source.labels if labels is None else labels
            )

    def make(self, node: onnx.NodeProto, axis: int, weight: onnx.TensorProto, rows: int) -> Labels:
        """Labels of the channels that a weight makes, which the first output gets."""
        labels = self.fresh(int(weight.dims[rows]))
        self.cut(weight.name, rows, labels, Part.MAKES)
        self.axes[node.output[0]] = Axis(axis, labels)
        return labels

    def vector(self, node: onnx.NodeProto, position: int, labels: Labels) -> str:
        """Cut a constant with one number for each channel; the reason why that cannot be."""
        if position >= len(node.input) or not node.input[position]:
            return ""
        tensor = self.weight(node, position)
        if tensor is None or tuple(tensor.dims) != (len(labels),):
            return f"input {position} of {node.op_type} is no constant of one number for each"
        self.reads[tensor.name] += 1
        self.cut(tensor.name, 0, labels, Part.FOLLOWS)
        return ""

    def with_others(self, node: onnx.NodeProto, position: int, axis: Axis) -> str:
        """Follow an operand without labels beside channels; the reason why that cannot be."""
        name = node.input[position]
        if name in self.axes:
            return f"a {node.op_type} with another tensor of channels"
        shape = self.shape(name).shape
        if shape is None:
            return f"a {node.op_type} with a tensor of unknown shape"
        tensor = self.weight(node, position)
        place = len(shape) + axis.axis
        if place < 0 or shape[place] == 1:
            if tensor is not None:
                self.reads[tensor.name] += 1
            return ""
        if tensor is None or shape[place] != len(axis.labels):
            return f"a {node.op_type} with a tensor that has no channels of a weight"
        self.reads[tensor.name] += 1
        self.cut(tensor.name, place, axis.labels, Part.FOLLOWS)
        return ""
