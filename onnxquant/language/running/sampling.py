"""The choice of the next token among the logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError


@dataclass(frozen=True)
class Sampling:
    """Rules of the choice. The temperature comes first, then the most probable tokens, then their share.

    Attributes:
        temperature: divisor of the logits; 0: the most probable token is taken.
        top_k: number of the most probable tokens that may be taken; 0: all.
        top_p: probability that the most probable tokens have together at least, which may be taken; 1: all.
        seed: seed of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RecipeError: one is out of range, or has no effect.
        """
        if not 0 <= self.temperature < np.inf:
            raise RecipeError(f"temperature is {self.temperature!r}, expected 0 or more")
        if self.top_k < 0:
            raise RecipeError(f"top_k is {self.top_k!r}, expected a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise RecipeError(f"top_p is {self.top_p!r}, expected a probability above 0, up to 1")
        if self.seed < 0:
            raise RecipeError(f"seed is {self.seed!r}, expected 0 or more")
        changed = [name for name in ("top_k", "top_p", "seed") if getattr(self, name) != getattr(Sampling, name)]
        if changed and not self.temperature:
            raise RecipeError(f"{changed[0]}: has no effect without --temperature (temperature=...)")


class Sampler:
    """Draws tokens by rules.

    Args:
        rules: the rules.
    """

    def __init__(self, rules: Sampling) -> None:
        self._rules = rules
        self._draws = np.random.default_rng(rules.seed)

    def choose(self, logits: NDArray[np.floating]) -> int:
        """A token.

        Args:
            logits: logits of all tokens [vocabulary].
        """
        if not self._rules.temperature:
            return int(logits.argmax())
        tokens, probabilities = distribution(logits, self._rules)
        sums = probabilities.cumsum()
        place = int(np.searchsorted(sums, self._draws.random() * sums[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])


def distribution(logits: NDArray[np.floating], rules: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tokens that may be taken and their probabilities, the most probable first.

    Args:
        logits: logits of all tokens [vocabulary].
        rules: the rules, with a temperature.
    """
    scaled = logits.astype(np.float64) / rules.temperature
    count = rules.top_k or len(scaled)
    tokens = np.argsort(-scaled, kind="stable")[:count]
    weights = np.exp(scaled[tokens] - scaled[tokens[0]])
    probabilities = weights / weights.sum()
    if rules.top_p < 1:
        enough = int(np.searchsorted(probabilities.cumsum(), rules.top_p)) + 1
        tokens, probabilities = tokens[:enough], probabilities[:enough]
    return tokens, probabilities / probabilities.sum()
