"""Channels of a graph: which axes of constants belong to one channel, and which channels cannot leave.

Every tensor that a convolution or a product makes has a label for each channel. Nodes hand labels on: an Add of two branches
makes one label of two, a Concat puts them one after the other, a Flatten repeats them for every position. What cannot be
followed locks its channels, with the reason. In the end a label stands for all that would leave the graph together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxquant.graph.io import Document
from onnxquant.graph.traverse import captured_names, names_read
from onnxquant.pruning.labels import ChannelLabels, Cut, Labels, Part
from onnxquant.pruning.operators import follow


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of the same constants: one layer's, or those of all layers that a sum joins.

    Attributes:
        labels: a label of each channel, in the order of the first constant.
        cuts: the axes of constants.
        locked: the reason why none of them can leave; empty where they can.
    """

    labels: Labels
    cuts: tuple[Cut, ...]
    locked: str

    @property
    def makers(self) -> list[str]:
        """Names of the weights that make the channels."""
        return list(dict.fromkeys(cut.tensor for cut in self.cuts if cut.part is Part.MAKES))


class Channels:
    """The channels of a model's main graph.

    Args:
        document: the model, prepared.

    Attributes:
        cuts: axes of constants on which channels lie.
        counts: numbers in nodes that count channels.
        changed: names of the tensors that lose a channel with a label, which have another shape then.
    """

    def __init__(self, document: Document) -> None:
        labels, graph = ChannelLabels(document), document.proto.graph
        for node in graph.node:
            follow(labels, node)
        captured = captured_names(graph)
        for name, axis in labels.axes.items():
            if name in captured:
                labels.lock(axis.labels, "a nested graph reads them")
        labels.lock_all((output.name for output in graph.output), "they are an output of the model")
        _lock_shared(labels, captured)
        self.cuts, self.counts, self.changed = labels.cuts, labels.counts, list(labels.axes)
        self._roots = np.array([labels.root(label) for label in range(labels.count)], np.int64)
        self._locks = {labels.root(label): reason for label, reason in labels.locks.items()}

    def roots(self, labels: Labels) -> Labels:
        """The labels that stand for channels, of labels that are joined with them."""
        return self._roots[labels]

    def groups(self) -> list[Group]:
        """All channels, by the constants that they lie on."""
        places: dict[int, dict[int, None]] = {}
        for index, cut in enumerate(self.cuts):
            for label in self.roots(cut.labels).tolist():
                places.setdefault(label, {})[index] = None
        members: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for label, indices in places.items():
            key = tuple(sorted({(self.cuts[i].tensor, self.cuts[i].axis) for i in indices}))
            members.setdefault(key, []).append(label)
        groups = []
        for labels in members.values():
            cuts = tuple(self.cuts[i] for i in dict.fromkeys(i for label in labels for i in places[label]))
            reason = next((self._locks[label] for label in labels if label in self._locks), "")
            groups.append(Group(np.array(labels, np.int64), cuts, reason))
        return groups


def _lock_shared(labels: ChannelLabels, captured: Iterable[str]) -> None:
    """Lock the channels of constants that are read elsewhere, too."""
    graph = labels.document.proto.graph
    reads = Counter(names_read(graph))
    outside = {*captured, *(output.name for output in graph.output)}
    for cut in labels.cuts:
        if reads[cut.tensor] != labels.reads[cut.tensor] or cut.tensor in outside:
            labels.lock(cut.labels, "other nodes read a constant of theirs")
