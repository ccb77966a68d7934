"""Rows of the zoo: one model in one mode, by us and by onnxruntime, and what is wrong with it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

# Ours may be larger by this part and these bytes (metadata), slower by this part, worse by these decibels, and take so
# many times the seconds, of which the first do not count.
_LARGER, _METADATA, _SLOWER, _WORSE, _LONGER, _QUICK = 1.01, 8192, 1.03, 0.5, 10, 10.0
_ENOUGH_DB = 60.0
# Files that are larger by more than this part may be better, and are not compared by quality; nor are better ones by size.
# Where ours says that it is slower, it is not compared by speed with one that is larger so much, and hardly quantized.
_COMPARABLE = 1.1
# The report's decibels may be above those of unseen samples by this much.
_UNSEEN = 2.0
# Verdicts that say that a file is of no use, and those that say that it is not faster.
_USELESS = ("nothing quantized", "worse in every way", "ERROR")
_SAYS_SLOWER = ("smaller, not faster", "smaller, accuracy lost", "worse in every way")


@dataclass
class Side:
    """One tool's result.

    Attributes:
        code: exit code.
        size: bytes of the file; 0 where there is none.
        verdict: state and next step that a report gives, or the error's message.
        claim, claim_db: speed that the report claims, as a multiple of float's, and SQNR of its worst output: the low end of
            the interval for samples that the file has not seen, where the report gives one.
        claims_mean: whether that interval is claimed, which holds the mean of the samples' ratios.
        sqnr_db: SQNR of the worst output on a CPU with VNNI; None where nothing can be compared.
        here_db: the same on the CPU that measured; None in rows that did not measure it.
        samples_db: the same of each test sample.
        speed: speed as a multiple of float's, with its interval.
        error: why the file could not be measured.
    """

    code: int = 0
    late: bool = False
    seconds: float = 0.0
    wall: float = 0.0
    peak: int = 0
    size: int = 0
    verdict: str = ""
    next: str = ""
    claim: float | None = None
    claim_db: float | None = None
    claims_mean: bool = False
    sqnr_db: float | None = None
    here_db: float | None = None
    samples_db: Sequence[float] = ()
    speed: tuple[float, float, float] | None = None
    error: str = ""
    traceback: bool = False

    @property
    def measured_db(self) -> float | None:
        """SQNR on the CPU that measured, where it is known."""
        return self.sqnr_db if self.here_db is None else self.here_db

    @property
    def claimed_db(self) -> float | None:
        """SQNR that was measured, of that which the report claims."""
        return fmean(self.samples_db) if self.claims_mean and self.samples_db else self.measured_db


@dataclass
class Row:
    """A model in a mode."""

    model: str
    mode: str
    is_real: bool
    size: int
    commit: str = ""
    ours: Side = field(default_factory=Side)
    peer: Side | None = None
    against_peer: tuple[float, float, float] | None = None

    @property
    def key(self) -> str:
        """Name of the row."""
        return f"{self.model}/{self.mode}"

    def flags(self) -> list[str]:
        """Kinds of what is wrong, worst first."""
        ours, peer = self.ours, self.peer if self.peer and self.peer.size and not self.peer.error else None
        if ours.late:
            return ["timeout"]
        if ours.traceback or ours.code not in (0, 1, 2):
            return ["traceback"]
        if not ours.size or ours.verdict in _USELESS:
            useful = peer is not None and peer.size < 0.9 * self.size and (peer.sqnr_db or 0) > 10
            return ["refused"] if useful else []
        if ours.error:
            return ["does not load"]
        return [name for name, holds in self._faults(peer).items() if holds]

    def _faults(self, peer: Side | None) -> dict[str, bool]:
        ours = self.ours
        says_slower = ours.verdict in _SAYS_SLOWER or (ours.claim or 1) < 1 / _SLOWER
        claim_db = min(ours.claim_db or 0.0, _ENOUGH_DB) if self.mode in ("static", "dynamic") else 0.0
        faults = {
            "failed": ours.code == 1,
            "larger than float": ours.size > self.size,
            "slower than float": bool(ours.speed and ours.speed[2] < 1 / _SLOWER) and not says_slower,
            "claims more speed": bool(ours.speed and ours.claim and ours.claim > 1.1 and ours.speed[2] < 1),
            "claims more dB": ours.claimed_db is not None
            and claim_db > ours.claimed_db + _UNSEEN + _doubt(ours.samples_db),
        }
        if peer:
            loss = max(_loss(ours.sqnr_db, peer.sqnr_db), _loss(ours.here_db, peer.here_db))
            loss -= _doubt([_loss(*pair) for pair in zip(ours.samples_db, peer.samples_db, strict=False)])
            gain = max(_loss(peer.sqnr_db, ours.sqnr_db), _loss(peer.here_db, ours.here_db))
            faults |= {
                "larger": ours.size > peer.size * _LARGER + _METADATA and gain < _WORSE,
                "slower": bool(self.against_peer and self.against_peer[2] < 1 / _SLOWER)
                and not (says_slower and peer.size > ours.size * _COMPARABLE),
                "worse": loss > _WORSE and peer.size < ours.size * _COMPARABLE,
                "long": ours.seconds > max(_LONGER * peer.seconds, _QUICK),
            }
        return faults

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The row of a line."""
        data: dict[str, Any] = json.loads(line)
        peer = data.pop("peer")
        return cls(**{**data, "ours": Side(**data["ours"]), "peer": Side(**peer) if peer else None})


def _doubt(decibels: Sequence[float]) -> float:
    """Half of the interval that holds the mean of such samples in 95 of 100 cases; 0 for one sample, or none."""
    return 1.96 * stdev(decibels) / math.sqrt(len(decibels)) if len(decibels) > 1 else 0.0


def _loss(ours: float | None, peer: float | None) -> float:
    """Decibels that ours keeps less; 0 where they cannot be compared."""
    return 0.0 if ours is None or peer is None else min(peer, _ENOUGH_DB) - min(ours, _ENOUGH_DB)


def read(path: Path) -> dict[str, Row]:
    """Rows of a file by name; the last of a name counts."""
    if not path.exists():
        return {}
    rows = map(Row.from_json, filter(None, path.read_text().splitlines()))
    return {row.key: row for row in rows}
