"""The one protocol by which long work says how far it is."""

from __future__ import annotations

from typing import Protocol


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
