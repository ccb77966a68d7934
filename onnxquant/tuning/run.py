"""The run: a student learns from samples, is judged on others, and ends where it was best.

Its rate is found first, by short runs of a few rates from the same start. Everything that a later run goes on from is written
once in a minute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxquant.errors import WeightError
from onnxquant.plan.tuning import TuningPoint
from onnxquant.recipe.progress import Progress, silent
from onnxquant.system.files import atomically
from onnxquant.tuning.batches import Batch
from onnxquant.tuning.blocks import Objective, Whole
from onnxquant.tuning.finite import first_not_finite
from onnxquant.tuning.optimizer import UnitAdam, rate_factor
from onnxquant.tuning.student import Student

# Rates that are tried, the one that comes first, and the part of the run that each of them takes.
_RATES, _FIRST_RATE, _TRIAL = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 1e-4, 0.05
# No rate is tried after this part of the run.
_LATEST_TRIAL = 0.5
# Judged at least so often in a stretch, and so that it takes no more than this part of the time.
_FEWEST_JUDGED, _JUDGING = 8, 0.15
_SECONDS_BETWEEN_SAVES = 60.0
# Steps of a trial that tell rates apart, at least: the first few of too high a rate gain most.
_FEWEST_TRIED = 8
# Saving takes no more than this part of the time.
_SAVING = 0.05


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run.

    Attributes:
        seconds: time of the run; None: it ends after ``epochs``.
        epochs: times that each sample is learned from; None: it ends with its time.
        seed: seed of the order of samples.
        rate: largest change of a parameter in one step, in its unit; None: it is found.
        batch: number of samples of a step.
        file: file that an interrupted run goes on from; None: none is kept.
    """

    seconds: float | None = None
    epochs: int | None = None
    seed: int = 0
    rate: float | None = None
    batch: int = 4
    file: Path | None = None


@dataclass
class Course:
    """The course of a run.

    Attributes:
        points: losses on the way; the first is before the first step. Those of trials are left out.
        steps: number of steps, trials included.
        seconds: its time.
        rate: the rate.
    """

    points: list[TuningPoint] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    rate: float = 0.0


@dataclass(frozen=True)
class _Stretch:
    """A part of a run that begins where its objective begins, and ends with a small rate.

    Attributes:
        objective: place of the objective that it follows.
        rate: its largest rate.
        begin, end: the part of the run that is done when it begins and ends.
        is_trial: whether it only tries the rate.
    """

    objective: int
    rate: float
    begin: float
    end: float
    is_trial: bool

    def rate_at(self, done: float) -> float:
        """The rate where a part of the run is done: it rises at first, then falls as a cosine."""
        part = min(max((done - self.begin) / max(self.end - self.begin, 1e-9), 0.0), 1.0)
        return self.rate * rate_factor(part)


class Run:
    """One run.

    Args:
        student: the student; at the end it is as it was where it was best.
        objectives: losses that it follows one after the other, each from where the one before it was best, with the part of
            the run that is done when it ends.
        judge_by: loss of the samples that judge it.
        settings: settings.
        progress: display of the part that is done.
    """

    def __init__(
        self,
        student: Student,
        objectives: Sequence[tuple[Objective, float]],
        judge_by: Whole,
        settings: Settings,
        progress: Progress = silent,
    ) -> None:
        self._student, self._objectives, self._judge_by = student, objectives, judge_by
        self._settings, self._progress = settings, progress
        self._optimizer = UnitAdam(student.learned())
        self._start = self._values()
        self._best, self._best_loss = self._start, math.inf
        self._trials: dict[float, float] = {}
        self._objective, self._tried = 0, 0  # place of the objective, and steps of its trials
        self._recent: list[float] = []
        self._stretch: _Stretch | None = None
        self._epoch, self._place, self._judged_for, self._judgements = 0, 0, 0.0, 0
        self._to_be_saved_at = _SECONDS_BETWEEN_SAVES
        self._judged_at = 0.0
        self._earlier = 0.0  # seconds of the run before it was interrupted
        self.course = Course()

    def run(self) -> Course:
        """Learn until the time or the epochs are over.

        Raises:
            WeightError: the loss is no number any more.
        """
        self._begin = time.monotonic()
        if not self._resume() and not math.isfinite(self._judge()):
            batch = self._judge_by.samples.batch(self._judge_by.samples.order(self._settings.batch)[0])
            place = first_not_finite(self._student.module, batch.feeds)
            raise WeightError(f"tuning: the loss is not finite before the first step{place}")
        while (stretch := self._next_stretch()) is not None:
            self._run(stretch)
        self._put(self._best)
        self.course.seconds = self._seconds()
        self._save(is_over=True)
        return self.course

    def _next_stretch(self) -> _Stretch | None:
        """The stretch that comes next, or that was interrupted; None: the run is over."""
        if self._stretch is not None:
            return self._stretch
        if self._done >= 1.0:
            return None
        end = self._objectives[self._objective][1]
        if self._done >= end:
            self._objective, self._trials, self._tried, self._start = self._objective + 1, {}, 0, self._best
            return self._next_stretch()
        begin = self._objectives[self._objective - 1][1] if self._objective else 0.0
        is_late = self._done > begin + (end - begin) * _LATEST_TRIAL
        rate = None if self._settings.rate or is_late else self._rate_to_try()
        if rate is not None:
            return _Stretch(self._objective, rate, self._done, self._done + _TRIAL, is_trial=True)
        trials = self._trials or {_FIRST_RATE: 0.0}
        self.course.rate = self._settings.rate or min(trials, key=trials.__getitem__)
        return _Stretch(self._objective, self.course.rate, self._done, end, is_trial=False)

    def _rate_to_try(self) -> float | None:
        """The next rate to try: neighbours of the best one; None: these are tried."""
        if not self._trials:
            return _FIRST_RATE
        if self._settings.seconds is not None and self._tried < _FEWEST_TRIED * len(self._trials):
            return None
        best = _RATES.index(min(self._trials, key=self._trials.__getitem__))
        near = [rate for rate in _RATES[max(best - 1, 0) : best + 2] if rate not in self._trials]
        return near[-1] if near else None

    def _run(self, stretch: _Stretch) -> None:
        is_begun, self._stretch = self._stretch is not None, stretch
        if not is_begun:
            self._put(self._start)
            self._optimizer.reset()
            self._judged_at = stretch.begin
        last = math.inf
        try:
            for batch in self._batches(stretch):
                self._learn(batch, stretch)
                if self._is_to_be_judged(stretch):
                    self._judge()
                self._save()
            last = self._judge()
        except WeightError:
            if not stretch.is_trial:  # else the rate is too high
                raise
        if stretch.is_trial:
            self._trials[stretch.rate] = last
            self.course.points = self.course.points[:1]
        self._stretch = None

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begin

    @property
    def _done(self) -> float:
        """The part of the run that is done."""
        settings = self._settings
        if settings.seconds is not None:
            return min(self._seconds() / settings.seconds, 1.0)
        steps = (settings.epochs or 1) * max(len(self._objectives[-1][0].samples.order(settings.batch)), 1)
        return min(self.course.steps / steps, 1.0)

    def _batches(self, stretch: _Stretch) -> Iterator[Batch]:
        samples = self._objectives[stretch.objective][0].samples
        while self._done < stretch.end - 1e-9:
            order = samples.order(self._settings.batch, np.random.default_rng([self._settings.seed, self._epoch]))
            while self._place < len(order):
                places = order[self._place]
                self._place += 1
                yield samples.batch(places)
                if self._done >= stretch.end - 1e-9:
                    return
            self._epoch, self._place = self._epoch + 1, 0

    def _learn(self, batch: Batch, stretch: _Stretch) -> None:
        value = self._objectives[stretch.objective][0].learn(batch)
        if not math.isfinite(value):
            place = first_not_finite(self._student.module, batch.feeds)
            raise WeightError(f"tuning: the loss is not finite after {self.course.steps} steps{place}")
        self._optimizer.step(stretch.rate_at(self._done))
        self._student.constrain()
        self.course.steps += 1
        self._tried += stretch.is_trial
        self._recent.append(value)
        stage = "finding a rate" if stretch.is_trial else "tuning"
        before = self.course.points[0].held_out
        self._progress(f"{stage}: loss {self._best_loss:.3g}, {before:.3g} before", self._done)

    def _is_to_be_judged(self, stretch: _Stretch) -> bool:
        """Judging is spread evenly, and takes a small part of the time."""
        count = 2 if stretch.is_trial else _FEWEST_JUDGED
        if self._settings.seconds is not None and not stretch.is_trial:
            each = self._judged_for / max(self._judgements, 1)
            count = max(count, int(_JUDGING * (stretch.end - stretch.begin) * self._settings.seconds / max(each, 0.01)))
        if self._done - self._judged_at < (stretch.end - stretch.begin) / count:
            return False
        self._judged_at = self._done
        return True

    @torch.no_grad()
    def _judge(self) -> float:
        """The loss on the samples that judge; where it is the best one, the student's values are kept."""
        begin, total, count = self._seconds(), 0.0, 0
        for places in self._judge_by.samples.order(self._settings.batch):
            batch = self._judge_by.samples.batch(places)
            total += len(places) * float(self._judge_by.loss_of(batch))
            count += len(places)
        learning = float(np.mean(self._recent)) if self._recent else None
        self._recent = []
        self._judged_for += self._seconds() - begin
        self._judgements += 1
        loss = total / max(count, 1)
        loss = loss if math.isfinite(loss) else math.inf
        self.course.points.append(TuningPoint(self.course.steps, round(self._seconds(), 1), learning, loss))
        if loss < self._best_loss:
            self._best, self._best_loss = self._values(), loss
        return loss

    def _values(self) -> list[Tensor]:
        return [values.detach().clone() for values in self._optimizer.parameters]

    @torch.no_grad()
    def _put(self, saved: list[Tensor]) -> None:
        for values, earlier in zip(self._optimizer.parameters, saved, strict=True):
            values.copy_(earlier)

    def _save(self, *, is_over: bool = False) -> None:
        """Write all that a later run goes on from, once in a minute, and when it is over."""
        file = self._settings.file
        if file is None or (not is_over and self._seconds() < self._to_be_saved_at):
            return
        begin = self._seconds()
        state = {name: getattr(self, f"_{name}") for name in _KEPT} | {
            "values": self._values(), "optimizer": self._optimizer.state(), "seconds": self._seconds(),
            "stretch": self._stretch and asdict(self._stretch), "course": asdict(self.course),
        }  # fmt: skip
        with atomically(file) as stream:
            torch.save(state, stream)
        self._to_be_saved_at = self._seconds() + max(_SECONDS_BETWEEN_SAVES, (self._seconds() - begin) / _SAVING)

    def _resume(self) -> bool:
        """Go on where an earlier run was interrupted; whether there is one."""
        file = self._settings.file
        if file is None or not file.exists():
            return False
        state: dict[str, Any] = torch.load(file, weights_only=True)
        for name in _KEPT:
            setattr(self, f"_{name}", state[name])
        self._put(state["values"])
        self._optimizer.load(state["optimizer"])
        points = [TuningPoint(**point) for point in state["course"].pop("points")]
        self.course, self._earlier = Course(points=points, **state["course"]), state["seconds"]
        self._stretch = _Stretch(**state["stretch"]) if state["stretch"] else None
        return True


# Attributes that are written to the file of an interrupted run as they are.
_KEPT = (
    "start", "best", "best_loss", "objective", "trials", "tried", "recent", "epoch", "place", "judged_for", "judged_at",
    "judgements",
)  # fmt: skip


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch; None: its own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
