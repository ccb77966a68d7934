"""Schedules of training: rounding and learning by the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from onnxquant.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounding and learning by the step.

    Attributes:
        start_step: rounding begins here; before it, everything is computed in float.
        freeze_step: steps, scales, zero points, ranges that follow the data and running statistics stay as they are from here
            on, while weights and biases learn; None: never.
        bits: least bits of the codes of weights from a step on. Finer grids divide the steps of the format's own one, in the
            same range; bits fall, and end at those of the format or below. Empty: the own grid.

    Raises:
        RecipeError: they contradict each other.

    >>> Schedule(bits={0: 16, 500: 8, 1000: 4}).bits_at(700)
    8
    """

    start_step: int = 0
    freeze_step: int | None = None
    bits: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the steps and bits fit together."""
        steps = sorted(self.bits)
        if self.start_step < 0:
            raise RecipeError(f"schedule: start_step is {self.start_step}, expected 0 or more")
        if self.freeze_step is not None and self.freeze_step < self.start_step:
            raise RecipeError(
                f"schedule: freeze_step {self.freeze_step} is before start_step {self.start_step}, expected the same or later"
            )
        if steps and steps[0] != 0:
            raise RecipeError(f"schedule: bits begin at step {steps[0]}, expected step 0 to be among them")
        for step, later in pairwise(steps):
            if self.bits[later] >= self.bits[step]:
                raise RecipeError(
                    f"schedule: {self.bits[later]} bits at step {later} after {self.bits[step]}, expected fewer bits"
                )
        if wrong := [bits for bits in self.bits.values() if not 1 <= bits <= 16]:
            raise RecipeError(f"schedule: {wrong[0]} bits, expected 1 to 16")
        if steps and self.freeze_step is not None and self.freeze_step < steps[-1]:
            raise RecipeError(
                f"schedule: freeze_step {self.freeze_step} is before the last change of bits at step {steps[-1]}, "
                f"expected the same or later: steps have to fit their grid"
            )

    @property
    def last_change(self) -> int:
        """The step of the last change but freezing."""
        return max(self.start_step, *self.bits, 0)

    def bits_at(self, step: int) -> int:
        """The least bits of weights at a step; 0: their own."""
        return next((self.bits[at] for at in sorted(self.bits, reverse=True) if at <= step), 0)
