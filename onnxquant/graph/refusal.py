"""The reason why something does not apply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """The reason why something does not apply, and what the user may do instead.

    Attributes:
        reason: the reason, in words that end a sentence.
        instead: advice on what would apply; empty where there is none.
    """

    reason: str
    instead: str = ""

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.reason}; {self.instead}" if self.instead else self.reason
