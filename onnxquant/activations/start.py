"""The start of a search from the end of an earlier one for the same model and samples, under other rules."""

from __future__ import annotations

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
class SearchStart:
    """The start of a search: nothing that the earlier one has tried is tried again, only what is in float is another.

    Attributes:
        document: the float model, prepared and simplified.
        best: the candidate with as many kernels on integers as possible; its samples are not in folds.
        remedies: remedies for kernels that are no good on integers.
    """

    document: Document
    best: Candidate
    remedies: GraphRemedies

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
