"""The time budget of a search: steps that would take longer than what is left are not begun."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from onnxquant.recipe.values import Effort

# Seconds, and passes over the samples, of which the longer time counts.
_SECONDS, _PASSES = {Effort.LOW: 10.0, Effort.MEDIUM: 60.0}, {Effort.LOW: 4, Effort.MEDIUM: 20}


class TimeBudget:
    """The time that a search may take. Other work on a busy machine does not count.

    Args:
        effort: effort of the search; high has no limit.
    """

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._started, self._started_working = time.monotonic(), time.process_time()
        self._pass = self._longest = 0.0
        self.skipped: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds that the search may take; infinite where there is no limit."""
        if self._effort is Effort.HIGH:
            return float("inf")
        return max(_SECONDS[self._effort], _PASSES[self._effort] * self._pass)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.seconds - self._spent())

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Measure the first pass over the samples."""
        start = self._spent()
        yield
        self._pass = self._pass or self._spent() - start

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure a step: the next ones are expected to take as long as the longest."""
        start = self._spent()
        yield
        self._longest = max(self._longest, self._spent() - start)

    def allows(self, step: str) -> bool:
        """Whether there is time for one more step; else its name is kept for the report."""
        if self._longest <= self.left:
            return True
        self.skipped.append(step)
        return False

    def _spent(self) -> float:
        return min(time.monotonic() - self._started, time.process_time() - self._started_working)
