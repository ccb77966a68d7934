"""The protocols by which long work says how far it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Progress(Protocol):
    """A function that long work calls again and again with its stage and the part of that stage that is done."""

    def __call__(self, stage: str, done: float, /) -> None:
        """Take note of the progress.

        Args:
            stage: name of the stage in a few words, such as "collecting statistics"
            done: part of the stage that is done, from 0 to 1; 0 also where the length of the stage is unknown
        """


def silent(stage: str, done: float, /) -> None:
    """Ignore all progress."""


@runtime_checkable
class Announcing(Progress, Protocol):
    """A display of progress that takes lines, too, which stay where the rest of it moves on."""

    def announce(self, line: str, /) -> None:
        """Show a line."""


def announce(progress: Progress, line: str) -> None:
    """Show a line that is not empty where a display of progress takes lines."""
    if line and isinstance(progress, Announcing):
        progress.announce(line)
