"""Verdicts in one word or phrase: the same for a report, its JSON data, a line for scripts and a row of a batch."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Results of a conversion; the values are their names in reports."""

    PASSED = "PASSED"
    """Smaller, not slower, and good."""

    CAUTION = "CAUTION"
    """Smaller and not slower; whether it is good enough has to be measured on the task."""

    NOT_JUDGED = "cannot tell"
    """Written, and what can be proven without samples is; no made-up samples fit the model."""

    NOT_FASTER = "smaller, not faster"
    """Smaller and good; it takes more time than the original, or no less where speed was the aim."""

    NOT_SMALLER = "faster, not smaller"
    """Faster and good; it takes at least as much space as the original."""

    FASTER_INACCURATE = "faster, accuracy lost"
    """Faster; its outputs are far from the original's."""

    SMALLER_INACCURATE = "smaller, accuracy lost"
    """Smaller, not faster; its outputs are far from the original's."""

    WORSE = "worse in every way"
    """Neither smaller nor faster."""

    NOTHING_QUANTIZED = "nothing quantized"
    """No weight is encoded: every one stays in float."""

    FAILED = "FAILED"
    """Written, but the proof failed or a bound was missed."""

    WRITTEN = "WRITTEN"
    """Written, not proven."""

    PLANNED = "PLANNED"
    """Nothing was to be written."""

    ERROR = "ERROR"
    """Nothing could be written."""

    NOT_DONE = "NOT DONE"
    """Not begun, or interrupted."""

    @property
    def is_failure(self) -> bool:
        """Whether a command that ends so has exit code 1: the file is of no use, or there is none."""
        return self in _FAILURES

    @property
    def word(self) -> str:
        """The state as one word in capitals, for scripts."""
        return _WORDS.get(self, self.value)

    @property
    def color(self) -> str:
        """Color of the state on a terminal."""
        return "red" if self.is_failure else _COLORS.get(self, "yellow")


_FAILURES = (State.FAILED, State.WORSE, State.NOTHING_QUANTIZED, State.ERROR, State.NOT_DONE)
_WORDS = {
    State.NOT_JUDGED: "UNKNOWN",
    State.NOT_FASTER: "SLOWER",
    State.NOT_SMALLER: "LARGER",
    State.FASTER_INACCURATE: "INACCURATE",
    State.SMALLER_INACCURATE: "INACCURATE",
    State.WORSE: "WORSE",
    State.NOTHING_QUANTIZED: "UNCHANGED",
    State.NOT_DONE: "UNDONE",
}
_COLORS = {State.PASSED: "green", State.PLANNED: "bold"}
# Names of states in reports of schema 1.
OLD_NAMES = {"plan": State.PLANNED, "written, not proven": State.WRITTEN}
