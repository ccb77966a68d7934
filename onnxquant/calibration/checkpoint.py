"""Checkpoints: files with the state of an unfinished collection of statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxquant.calibration.feeds import Feed, Feeds
from onnxquant.calibration.statistics import PARTIAL, Statistics
from onnxquant.errors import StatisticsError


def fingerprint(feeds: Feeds, first: Feed) -> dict[str, int | str]:
    """Facts about samples, by which a collection recognizes that a checkpoint is of the same ones.

    Args:
        feeds: the samples.
        first: the first of them.
    """
    total = hashlib.sha256()
    for name, array in sorted(first.items()):
        total.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        total.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else array.tobytes())
    return {"samples": len(feeds), "first sample": total.hexdigest()}


@dataclass(frozen=True)
class Checkpoint:
    """A file with unfinished statistics, and the number of samples that each tensor has been observed in.

    Attributes:
        path: the file.
        fingerprint: facts about the samples.
    """

    path: Path
    fingerprint: Mapping[str, int | str]

    def exists(self) -> bool:
        """Whether there is something to go on with."""
        return self.path.exists()

    def write(self, statistics: Statistics, counts: Mapping[str, int]) -> None:
        """Write the file, whole or not at all.

        Args:
            statistics: the unfinished statistics.
            counts: number of samples by tensor.

        Raises:
            OutputError: it cannot be written.
        """
        entries = {"seen": [counts[name] for name in statistics.observers], "of": dict(self.fingerprint)}
        statistics.write(self.path, PARTIAL, entries)

    def read(self, fresh: Statistics) -> tuple[Statistics, dict[str, int]]:
        """The unfinished statistics, and the number of samples by tensor.

        Args:
            fresh: empty statistics of the collection that goes on.

        Raises:
            StatisticsError: damaged, or of another model, of other samples, tensors or observers.
        """
        statistics, header = Statistics.read(self.path, PARTIAL)
        statistics.check(fresh.model, f"the one that {self.path} is to be resumed for")
        for fact, value in self.fingerprint.items():
            if header["of"].get(fact) != value:
                raise StatisticsError(f"{self.path}: is of other samples ({fact} differ); remove it to start anew")
        names = {t: list(o) for t, o in fresh.observers.items() if t not in statistics.skipped}
        if {t: list(o) for t, o in statistics.observers.items()} != names:
            raise StatisticsError(f"{self.path}: is of other tensors or observers; remove it to start anew")
        return statistics, dict(zip(statistics.observers, header["seen"], strict=True))
