"""The time that a choice among ways takes, told before it begins: the calls of the model by the time of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxquant.convert.ways import Way
from onnxquant.targets import Activations

# Calls that measure the speed of a file, and passes over the samples for calibration that make a static one.
_TIMED_CALLS, _PASSES = 6, 3
# Passes over the samples that judge which the proof of the chosen file makes.
_PROOF_PASSES = 5
# A choice is forecast where its first way takes longer.
_LONG_SECONDS = 15.0


@dataclass(frozen=True)
class Forecast:
    """The time of ways, by the time of one call.

    Attributes:
        call: seconds of one call of the original.
        judged: samples that judge a file.
        calibrated: samples for calibration.
        limit: seconds after which no further way is begun.
    """

    call: float
    judged: int
    calibrated: int
    limit: float

    def seconds_of(self, way: Way) -> float:
        """Seconds that a way takes."""
        is_static = way.options.get("activations") == Activations.STATIC
        return self.call * (self.judged + _TIMED_CALLS + is_static * _PASSES * self.calibrated)

    def expected(self, way: Way, earlier: Sequence[tuple[Way, float]]) -> float:
        """Seconds that a way and the proof of its file take, after what earlier ways took beyond their calls.

        Args:
            way: the way.
            earlier: earlier ways with their seconds; those that treat activations alike tell, where there are any.
        """
        alike = [pair for pair in earlier if pair[0].options.get("activations") == way.options.get("activations")]
        more = max((seconds - self.seconds_of(other) for other, seconds in alike or earlier), default=0.0)
        return self.seconds_of(way) + max(more, 0.0) + self.call * _PROOF_PASSES * self.judged

    def first_line(self) -> str:
        """The time before the first way, and that of each way; empty where it is short."""
        seconds = self.call * (self.judged + _TIMED_CALLS)
        if seconds < _LONG_SECONDS:
            return ""
        static = seconds + self.call * _PASSES * self.calibrated
        return (
            f"a call takes {self.call:.2g} s: about {duration(seconds)} for the outputs of the original, then as long for "
            f"each way, and about {duration(static)} for each with static activations"
        )

    def left_out(self, plan: Sequence[Way]) -> str:
        """The ways that there will be no time for, and the option that gives it; empty where there are none.

        Args:
            plan: ways in the order in which they are tried.
        """
        begin, late = 0.0, []
        first = [way for way in plan if way.rescues is None and not way.objection]
        for way in first:
            if begin > self.limit:
                late.append(way.name)
            begin += self.seconds_of(way)
        if not late or begin < _LONG_SECONDS:
            return ""
        return (
            f"no way begins after {duration(self.limit)}, so that there will be no time for {', '.join(late)}: "
            f"--time {math.ceil(begin / 60)}min tries them"
        )


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(8.2), duration(150)
    ('8 s', '3 min')
    """
    return f"{seconds:.0f} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"
