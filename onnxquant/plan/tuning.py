"""The record of tuning, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TuningPoint:
    """The losses at a point of the run.

    Attributes:
        step: number of steps before it.
        seconds: time of the run before it.
        learning: mean loss of the samples that were learned from since the point before; None before the first step.
        held_out: mean loss of the samples that judge.
    """

    step: int
    seconds: float
    learning: float | None
    held_out: float


@dataclass(frozen=True, kw_only=True)
class TuningRecord:
    """Figures of tuning.

    Attributes:
        samples: number of samples that it learned from.
        judged: number of samples that judged it.
        steps: number of steps.
        seconds: its time.
        before: closeness of the outputs to the float model's before it, in decibels, on the samples that judge.
        after: the same of what was learned.
        gained: whether the file has what was learned; else nothing was better than before.
        course: losses on the way.
    """

    samples: int
    judged: int
    steps: int
    seconds: float
    before: float
    after: float
    gained: bool
    course: tuple[TuningPoint, ...] = field(default_factory=tuple)
