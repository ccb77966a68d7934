"""The start of a search from the end of an earlier one for the same model and samples, under other rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxquant.activations.candidate import Candidate
from onnxquant.activations.fused import GraphRemedies
from onnxquant.activations.weights import OPSET
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.plan.planner import DYNAMIC_BY_RULE, refusal_beside_integers
from onnxquant.recipe.rules import Recipe
from onnxquant.targets import Activations


@dataclass(frozen=True)
class UnsmoothedFunctions:
    """Functions that a search has tried before it smooths products, for one that smooths them otherwise.

    Attributes:
        first: the model itself, with the magnitudes of channels.
        base: the function that is smoothed.
        best: the best function, whose weights are rounded to nearest.
        scores: score of each function that was tried, in decibels.
    """

    first: Candidate
    base: Candidate
    best: Candidate
    scores: Mapping[str, float]


@dataclass(frozen=True)
class SearchStart:
    """The start of a search: nothing that the earlier one has tried is tried again, only what is in float is another.

    Attributes:
        document: the float model, prepared and simplified.
        best: the candidate with as many kernels on integers as possible; its samples are not in folds.
        remedies: remedies for kernels that are no good on integers.
        unsmoothed: the functions without Muls that smooth products; None: such Muls were tried, or there is no such function.
    """

    document: Document
    best: Candidate
    remedies: GraphRemedies
    unsmoothed: UnsmoothedFunctions | None = None

    def under(self, rules: Recipe) -> Candidate:
        """The candidate without codes of weights that rules leave to others."""
        opset = max(self.document.opset, OPSET)
        weights = {
            site.name
            for site in find_sites(self.best.model.document)[0]
            if refusal_beside_integers(site, rules, Activations.STATIC, opset) in (None, DYNAMIC_BY_RULE)
        }
        solved = {name: encoded for name, encoded in self.best.plan.solved.items() if name in weights}
        sums = {name: multiples for name, multiples in self.best.sums.items() if name in weights}
        return replace(self.best, plan=replace(self.best.plan, solved=solved), sums=sums)
