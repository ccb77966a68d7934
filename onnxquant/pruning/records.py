"""The records of pruning, for files and for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxquant.json_data import OPTIONAL


@dataclass(frozen=True)
class RemovedChannels:
    """Channels that left the graph, with all that belongs to them.

    Attributes:
        tensor: a constant of the original that has them.
        axis: their axis of it.
        channels: their places there.
    """

    tensor: str
    axis: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Pruned:
    """Changes of a model by pruning: enough to compare the file with the original.

    Attributes:
        zeros: number of zeros of each weight that was pruned, by name.
        removed: channels that left the graph.
    """

    zeros: Mapping[str, int] = field(default_factory=dict)
    removed: tuple[RemovedChannels, ...] = ()


@dataclass(frozen=True)
class Left:
    """Weights or channels that were not pruned for one reason.

    Attributes:
        reason: the reason.
        count: number of them.
        example: name of the first.
    """

    reason: str
    count: int
    example: str


@dataclass(frozen=True)
class Work:
    """The numbers of a model that its channels decide.

    Attributes:
        parameters: number of constant floats.
        macs: multiplications of products and convolutions in one call; None where shapes are not known.
    """

    parameters: int
    macs: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class CompressedSizes:
    """Bytes that a compressing archive or download takes, estimated by zlib.

    Attributes:
        original: those of the original.
        output: those of the file.
    """

    original: int
    output: int


@dataclass(frozen=True, kw_only=True)
class PruningRecord:
    """Figures of pruning.

    Attributes:
        score: the measure that chose what goes.
        weights: number of weights of which single elements became zero.
        elements: number of their elements.
        zeros: number of zeros among these.
        total: number of elements of all constant weights, pruned or not.
        channels: number of channels that left the graph.
        before, after: size of the model's work, where channels left.
        left: weights and channels that were not pruned, by reason.
        compressed: size when compressed; None where nothing was written.
    """

    score: str
    weights: int = 0
    elements: int = 0
    zeros: int = 0
    total: int = 0
    channels: int = 0
    before: Work | None = field(default=None, metadata=OPTIONAL)
    after: Work | None = field(default=None, metadata=OPTIONAL)
    left: tuple[Left, ...] = ()
    compressed: CompressedSizes | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class PrunedModel:
    """The result of pruning a model.

    Attributes:
        pruned: changes of the model, for the file.
        record: figures, for the report.
    """

    pruned: Pruned
    record: PruningRecord
