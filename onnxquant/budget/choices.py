"""One candidate per weight: their costs, and the best combination within a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxquant.budget.candidates import FormatCandidate
from onnxquant.budget.knapsack import choose
from onnxquant.budget.result import ChoiceFigures, FormatCost, Measured, WeightCosts
from onnxquant.formats.base import Format
from onnxquant.numerics.decibels import decibels

# Number of sizes in the front.
_STEPS = 12


@dataclass(frozen=True)
class FormatChoice:
    """One candidate per site, by its name, and their figures together.

    Attributes:
        picked: the candidates
        fixed_bytes: bytes of the weights that no format is chosen for
        elements: number of all constant weights
        predicted: sum of the candidates' noises
        measured: noise of the outputs; NaN until the choice is run
        keeps: whether it keeps the bound on quality; true where there is none
    """

    picked: dict[str, FormatCandidate]
    fixed_bytes: int
    elements: int
    predicted: float
    measured: float = math.nan
    keeps: bool = True

    @property
    def formats(self) -> dict[str, Format]:
        """Formats of the sites that are encoded."""
        return {n: f for n, c in self.picked.items() if (f := c.decision.format)}

    @property
    def nbytes(self) -> int:
        """Bytes of all constant weights."""
        return self.fixed_bytes + sum(c.decision.nbytes for c in self.picked.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight over all constant weights."""
        return 8 * self.nbytes / self.elements

    @property
    def seconds(self) -> float:
        """Seconds of the timed products."""
        return sum(c.seconds for c in self.picked.values())

    def figures(self) -> ChoiceFigures:
        """The figures of the choice, for reports."""
        return ChoiceFigures(
            bits_per_weight=round(self.bits_per_weight, 4),
            predicted_sqnr_db=reported_decibels(self.predicted),
            products_ms=round(1000 * self.seconds, 4) if self.seconds else None,
            measured=None if math.isnan(self.measured) else Measured(reported_decibels(self.measured)),
        )


@dataclass(frozen=True)
class CandidateTable:
    """The candidates of every site that a format is chosen for.

    Attributes:
        options: candidates by site
        fixed_bytes: bytes of the other weights
        elements: number of all constant weights
    """

    options: dict[str, list[FormatCandidate]]
    fixed_bytes: int
    elements: int

    def best(self, nbytes: float) -> FormatChoice | None:
        """The choice with the least noise within a number of bytes; None where there is none."""
        picked = choose(self._noises(), self._bytes(), nbytes - self.fixed_bytes)
        return None if picked is None else self._choice(picked)

    def smallest(self, noise: float) -> FormatChoice:
        """The choice with the fewest bytes within an amount of noise, or the fastest one where products were timed."""
        picked = choose(self._times() or self._bytes(), self._noises(), noise)
        return self._choice([0] * len(self.options) if picked is None else picked)  # staying in float makes no noise

    def lightest(self) -> int:
        """Bytes of the smallest choice there is."""
        return self.fixed_bytes + sum(min(c.decision.nbytes for c in o) for o in self.options.values())

    def heaviest(self) -> int:
        """Bytes with everything in float."""
        return self.fixed_bytes + sum(o[0].decision.nbytes for o in self.options.values())

    def front(self) -> list[FormatChoice]:
        """The best choices of several sizes, smallest first."""
        choices = [self.best(size) for size in np.geomspace(self.lightest(), self.heaviest(), _STEPS)]
        by_size = {c.nbytes: c for c in choices if c}
        return [by_size[size] for size in sorted(by_size)]

    def rescale(self, factors: Mapping[str, float]) -> CandidateTable:
        """The table with the noises of sites multiplied."""
        options = {
            name: [replace(c, noise=c.noise * factors.get(name, 1.0)) for c in o] for name, o in self.options.items()
        }
        return CandidateTable(options, self.fixed_bytes, self.elements)

    def sensitivity(self, choice: FormatChoice) -> tuple[WeightCosts, ...]:
        """Costs of each site's candidates, the most sensitive site first."""
        rows = []
        for name, candidates in self.options.items():
            costs = tuple(FormatCost(c.label, c.decision.nbytes, float(f"{c.noise:.4g}")) for c in candidates)
            rows.append(WeightCosts(name, choice.picked[name].label, costs))
        return tuple(sorted(rows, key=lambda r: -max(c.noise for c in r.candidates)))

    def _choice(self, picked: list[int]) -> FormatChoice:
        chosen = {n: self.options[n][i] for n, i in zip(self.options, picked, strict=True)}
        return FormatChoice(chosen, self.fixed_bytes, self.elements, sum(c.noise for c in chosen.values()))

    def _noises(self) -> list[list[float]]:
        return [[c.noise for c in candidates] for candidates in self.options.values()]

    def _times(self) -> list[list[float]]:
        """Seconds, or nothing where none were measured. Of two equally fast candidates the smaller one is better."""
        if not any(c.seconds for o in self.options.values() for c in o):
            return []
        return [[c.seconds + 1e-15 * c.decision.nbytes for c in candidates] for candidates in self.options.values()]

    def _bytes(self) -> list[list[float]]:
        return [[float(c.decision.nbytes) for c in candidates] for candidates in self.options.values()]


def reported_decibels(share: float) -> float | None:
    """Decibels of a noise share, for reports; None where there is no noise, or nothing but noise."""
    return round(decibels(1.0, share), 2) if 0 < share < math.inf else None
