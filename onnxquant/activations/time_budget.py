"""The time budget of a search: steps that the result does not need are broken off when it is used up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.values import Effort

_Result = TypeVar("_Result")
# Seconds, and passes over the samples, of which the longer time counts.
_SECONDS, _PASSES = {Effort.LOW: 10.0, Effort.MEDIUM: 60.0}, {Effort.LOW: 4, Effort.MEDIUM: 20}
# Time that other work on a busy machine takes counts only beyond this multiple of the work's own.
_BUSY = 2.0


class _OutOfTimeError(Exception):
    """The budget is used up in the middle of a step."""


class TimeBudget:
    """The time that a search may take. What other work on a busy machine takes does not count, but for its excess.

    Args:
        effort: effort of the search; high has no limit.
        progress: display of the part that is done.
        limit: seconds that it may take, whatever the effort; None: the effort decides.

    Attributes:
        skipped: titles of the steps that there was no time for.
    """

    def __init__(self, effort: Effort, progress: Progress = silent, limit: float | None = None) -> None:
        self._effort, self._display, self._limit = effort, progress, limit
        self._started, self._started_working = time.monotonic(), time.process_time()
        self._pass, self._share = 0.0, 1.0
        self._can_end = False
        self.skipped: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds that the search may take; infinite where there is no limit."""
        if self._limit is not None:
            return self._limit
        if self._effort is Effort.HIGH:
            return math.inf
        return max(_SECONDS[self._effort], _PASSES[self._effort] * self._pass)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._share * self.seconds - self._spent())

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Measure the first pass over the samples."""
        start = self._spent()
        yield
        self._pass = self._pass or self._spent() - start

    @contextmanager
    def limited_to(self, share: float) -> Iterator[None]:
        """Keep the rest of the time for later steps.

        Args:
            share: the part of all time after which the steps inside end.
        """
        self._share = share
        try:
            yield
        finally:
            self._share = 1.0

    def attempt(self, title: str, step: Callable[[], _Result]) -> _Result | None:
        """The result of a step; None where time has run out before it or in the middle of it.

        Args:
            title: its name in the report.
            step: function that calls ``progress`` again and again.
        """
        try:
            self._can_end = True
            self._check()
            return step()
        except _OutOfTimeError:
            if title not in self.skipped:
                self.skipped.append(title)
            return None
        finally:
            self._can_end = False

    def progress(self, stage: str, done: float, /) -> None:
        """Show the progress of a step and the time that is left, and break it off where there is none."""
        self._check()
        left = self._left_on_the_clock()
        if left is None:
            words = stage
        else:  # the first candidate is finished in any case
            words = f"{stage}, at most {_duration(left)} left" if left else f"{stage}, the last step: the time is over"
        self._display(words, done)

    def _left_on_the_clock(self) -> float | None:
        """Seconds that the search may still take as the machine is used now; None: no limit, or not known before a pass."""
        if not self._pass or math.isinf(self.seconds):
            return None
        spent, passed = self._spent(), time.monotonic() - self._started
        return max(0.0, self.seconds - spent) * passed / max(spent, 1e-3)

    def _check(self) -> None:
        if self._can_end and not self.left:
            raise _OutOfTimeError

    def _spent(self) -> float:
        passed, worked = time.monotonic() - self._started, time.process_time() - self._started_working
        return max(min(passed, worked), passed / _BUSY)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
