"""The reading of a checkpoint from front to back, in memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from onnxquant.interchange.cursor import MappedFile
from onnxquant.interchange.tensor import Tensor
from onnxquant.recipe.progress import Progress

T = TypeVar("T")
# Weights that are read before memory of the source is freed.
_FREED = 1 << 25


def in_turn(tensors: Sequence[Tensor], files: Sequence[MappedFile], stage: str, progress: Progress) -> list[Tensor]:
    """Tensors that tell how many have been read, and free what was read before.

    Args:
        tensors: tensors of a checkpoint, which are read in their order.
        files: the files of the checkpoint.
        stage: name of the work, for people.
        progress: called with the part that is done.
    """
    reading = _Reading(files, stage, progress, sum(tensor.size for tensor in tensors))
    return [
        replace(
            tensor,
            load=partial(reading.next, tensor.size, tensor.load),
            blocks=None if tensor.blocks is None else partial(reading.next, tensor.size, tensor.blocks),
        )
        for tensor in tensors
    ]


@dataclass
class _Reading:
    """The reading of a checkpoint from front to back.

    Attributes:
        files: its files.
        stage: name of the work, for people.
        progress: called with the part that is done.
        total: number of weights.
        done: number of those that have been read.
        since: number of those since memory was freed.
    """

    files: Sequence[MappedFile]
    stage: str
    progress: Progress
    total: int
    done: int = 0
    since: int = 0

    def next(self, size: int, read: Callable[[], T]) -> T:
        """The result of a function that reads, after memory of earlier reads is freed."""
        self.progress(self.stage, self.done / max(self.total, 1))
        if self.since >= _FREED:
            self.since = 0
            for file in self.files:
                file.forget()
        self.done, self.since = self.done + size, self.since + size
        return read()
