"""Amounts of pruning, as users write them, and the measures that choose what goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from onnxquant.errors import RecipeError

_EXPECTED = "expected a part of the weights such as 0.5, 2:4, or a part of the channels such as channels=0.3"


class Score(StrEnum):
    """Measures by which weights are pruned: the smallest go first."""

    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    """Magnitude times the norm of the input (Sun et al. 2023, arXiv 2306.11695)."""


class Pattern(StrEnum):
    """Patterns of what is pruned."""

    WEIGHTS = "weights"
    """Single weights, wherever they stand."""
    TWO_OF_FOUR = "2:4"
    """Two of each four inputs of a row."""
    CHANNELS = "channels"
    """Whole channels, which leave the graph."""


@dataclass(frozen=True)
class Amount:
    """An amount of pruning.

    Attributes:
        pattern: pattern of what is pruned.
        part: part of the weights, or of the channels, that goes; between 0 and 1.
    """

    pattern: Pattern
    part: float

    @classmethod
    def parse(cls, value: str | float) -> Amount:
        """An amount as users write it.

        Raises:
            RecipeError: any other text, or a part that is not between 0 and 1.

        >>> Amount.parse("channels=0.3").part, Amount.parse(0.5).pattern.value, Amount.parse("2:4").part
        (0.3, 'weights', 0.5)
        """
        text = str(value).strip()
        if text == Pattern.TWO_OF_FOUR:
            return cls(Pattern.TWO_OF_FOUR, 0.5)
        match = re.fullmatch(r"(channels=)?(\d*\.?\d+(?:[eE]-?\d+)?)(%?)", text)
        if match is None:
            raise RecipeError(f"prune is {text!r}, {_EXPECTED}")
        part = float(match[2]) / (100 if match[3] else 1)
        if not 0 < part < 1:
            raise RecipeError(f"prune is {text!r}, {_EXPECTED}: more than 0 and less than 1")
        return cls(Pattern.CHANNELS if match[1] else Pattern.WEIGHTS, part)
