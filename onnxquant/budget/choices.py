"""Candidates of all weights together, and the best choice among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxquant.budget.candidates import Candidate
from onnxquant.budget.knapsack import choose
from onnxquant.budget.result import ChoiceFigures, FormatCost, Measured, WeightCosts
from onnxquant.formats.base import Format
from onnxquant.numerics.decibels import decibels

# Sizes of the front.
_STEPS = 12


@dataclass(frozen=True)
class Choice:
    """One candidate per site, by its name, and what is known of them together.

    Attributes:
        picked: the candidates.
        fixed_bytes: of weights that are not free.
        elements: of all constant weights.
        predicted: sum of the candidates' noises.
        measured: the noise once it was run.
        keeps: whether it keeps the bound on quality; true where there is none.
    """

    picked: dict[str, Candidate]
    fixed_bytes: int
    elements: int
    predicted: float
    measured: float = math.nan
    keeps: bool = True

    @property
    def forms(self) -> dict[str, Format]:
        """Formats of the sites that are encoded."""
        return {n: f for n, c in self.picked.items() if (f := c.decision.format)}

    @property
    def nbytes(self) -> int:
        """Of all constant weights."""
        return self.fixed_bytes + sum(c.decision.nbytes for c in self.picked.values())

    @property
    def bits_per_weight(self) -> float:
        """Of all constant weights."""
        return 8 * self.nbytes / self.elements

    @property
    def seconds(self) -> float:
        """Of the products, where they were timed."""
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
class Table:
    """Every free site's candidates.

    Attributes:
        options: candidates by site.
        fixed_bytes: of weights that are not free.
        elements: of all constant weights.
    """

    options: dict[str, list[Candidate]]
    fixed_bytes: int
    elements: int

    def best(self, nbytes: float) -> Choice | None:
        """The least noise within so many bytes."""
        return self._chosen(choose(self._noises(), self._bytes(), nbytes - self.fixed_bytes))

    def smallest(self, noise: float) -> Choice | None:
        """The fewest bytes, or the least time where products were timed, within so much noise."""
        return self._chosen(choose(self._times() or self._bytes(), self._noises(), noise))

    def lightest(self) -> int:
        """Bytes of the smallest choice there is."""
        return self.fixed_bytes + sum(min(c.decision.nbytes for c in o) for o in self.options.values())

    def heaviest(self) -> int:
        """Bytes with everything in float."""
        return self.fixed_bytes + sum(o[0].decision.nbytes for o in self.options.values())

    def front(self) -> list[Choice]:
        """The best choices of several sizes, smallest first."""
        found = [self.best(size) for size in np.geomspace(self.lightest(), self.heaviest(), _STEPS)]
        by_size = {c.nbytes: c for c in found if c}
        return [by_size[size] for size in sorted(by_size)]

    def rescale(self, factors: Mapping[str, float]) -> Table:
        """The table with the noises of sites multiplied."""
        options = {
            name: [replace(c, noise=c.noise * factors.get(name, 1.0)) for c in o] for name, o in self.options.items()
        }
        return Table(options, self.fixed_bytes, self.elements)

    def sensitivity(self, choice: Choice) -> tuple[WeightCosts, ...]:
        """Costs of each site's candidates, the most sensitive site first."""
        rows = []
        for name, candidates in self.options.items():
            costs = tuple(FormatCost(c.label, c.decision.nbytes, float(f"{c.noise:.4g}")) for c in candidates)
            rows.append(WeightCosts(name, choice.picked[name].label, costs))
        return tuple(sorted(rows, key=lambda r: -max(c.noise for c in r.candidates)))

    def _chosen(self, picked: list[int] | None) -> Choice | None:
        if picked is None:
            return None
        chosen = {n: self.options[n][i] for n, i in zip(self.options, picked, strict=True)}
        return Choice(chosen, self.fixed_bytes, self.elements, sum(c.noise for c in chosen.values()))

    def _noises(self) -> list[list[float]]:
        return [[c.noise for c in several] for several in self.options.values()]

    def _times(self) -> list[list[float]]:
        """Seconds; of candidates that take as long the smaller one is the better."""
        if not any(c.seconds for o in self.options.values() for c in o):
            return []
        return [[c.seconds + 1e-15 * c.decision.nbytes for c in several] for several in self.options.values()]

    def _bytes(self) -> list[list[float]]:
        return [[float(c.decision.nbytes) for c in several] for several in self.options.values()]


def reported_decibels(share: float) -> float | None:
    """Decibels of a noise share, for people; None where there is no noise, or nothing but noise."""
    return round(decibels(1.0, share), 2) if 0 < share < math.inf else None
