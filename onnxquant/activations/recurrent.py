"""LSTMs on integers: taken where they are certainly faster, and the outputs keep their quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnxquant.activations.candidates import MARGIN_DB, CandidateRunner
from onnxquant.activations.pair_room import with_room_for_pairs
from onnxquant.activations.plan import ActivationPlan, DynamicActivations
from onnxquant.activations.settings import DEFAULT_GOAL_DB
from onnxquant.activations.slow_kernels import WORTHWHILE
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.activations.weights import beyond_range, static_format
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find_sites
from onnxquant.plan.clients import refusal_of_clients
from onnxquant.plan.context import Context
from onnxquant.plan.planner import first_matching_rule, refusal_beside_integers
from onnxquant.recipe.rules import Recipe, Rule
from onnxquant.targets import Activations, integer_target

# Number of layers that are tried, the largest first.
_MOST_LAYERS = 6
# A float model that takes less time per call is not measured: LSTMs repeat their products in each step, and gain in shorter
# calls than others.
_LEAST_SECONDS = 1e-4
# Outputs may lose so many decibels to a layer whatever they keep.
_LITTLE_DB = 1.0


@dataclass(frozen=True)
class Layer:
    """An LSTM that can compute on integers.

    Attributes:
        weights: names of its two weights.
        elements: number of their elements.
        is_chosen: whether the rules of both weights ask for it.
    """

    weights: frozenset[str]
    elements: int
    is_chosen: bool


def layers(document: Document, rules: Recipe) -> list[Layer]:
    """The LSTMs both of whose weights can be int8 per channel under the rules, the largest first."""
    by_node: dict[tuple[int, int], list[tuple[Site, Rule]]] = {}
    for site in find_sites(document)[0]:
        match = first_matching_rule(site, rules)
        if site.role == "recurrent" and match is not None and _is_possible(document, site, rules, match[1]):
            use = site.uses[0]
            by_node.setdefault((id(use.graph), use.index), []).append((site, match[1]))
    pairs = [
        Layer(
            weights=frozenset(site.name for site, _ in pair),
            elements=sum(site.elements for site, _ in pair),
            is_chosen=all(rule.dynamic_activations for _, rule in pair),
        )
        for pair in by_node.values()
        if len(pair) == 2
    ]
    return sorted(pairs, key=lambda layer: -layer.elements)


def _is_possible(document: Document, site: Site, rules: Recipe, rule: Rule) -> bool:
    """Whether a weight of a recurrent layer can be codes of an operator on integers that all clients have."""
    if refusal_beside_integers(site, rules, Activations.DYNAMIC, document.opset) is not None:
        return False
    form, target = static_format(site, rules), integer_target(Activations.DYNAMIC, site.role)
    if refusal_of_clients(site, form, target, document.opset, rule.clients) is not None:
        return False
    return not beyond_range(document, site, form)


def with_layers(best: ActivationPlan, chosen: Sequence[Layer], rules: Recipe) -> ActivationPlan:
    """A plan with more LSTMs on integers.

    Their weights have scales with which no sum of two products is cut off on CPUs without VNNI: what is lost in one step
    stays in the state for all that follow.
    """
    weights = frozenset[str]().union(*(layer.weights for layer in chosen))
    before = best.activations
    count, slow = (before.record.integer_kernels, before.slow_on_clients) if before else (0, {})
    return replace(
        best,
        sites=replace(best.sites, multiplied=best.sites.multiplied | weights),
        activations=DynamicActivations(integer_kernels=count + len(chosen), slow_on_clients=slow),
        solved=with_room_for_pairs(best.document, dict.fromkeys(weights), rules, best.solved),
    )


def with_fast_layers(
    best: ActivationPlan, possible: Sequence[Layer], context: Context, runner: CandidateRunner, budget: TimeBudget
) -> ActivationPlan:
    """A plan with the LSTMs on integers that certainly make it faster and keep its quality, tried one after the other.

    Args:
        best: the plan.
        possible: the layers.
        context: context with options and rules.
        runner: runner of candidates.
        budget: time budget.
    """
    if runner.seconds < _LEAST_SECONDS:
        return best
    bound = context.options.min_sqnr
    least = DEFAULT_GOAL_DB if bound is None else bound + MARGIN_DB

    def better(layer: Layer) -> ActivationPlan | None:
        plan = with_layers(best, [layer], context.rules)
        if runner.speedup(plan, best).low <= WORTHWHILE:
            return None
        on_integers, in_float = (runner.score(either, budget.progress) for either in (plan, best))
        loses_little = on_integers.criterion >= in_float.criterion - _LITTLE_DB
        return plan if loses_little or min(on_integers.criterion, on_integers.total) >= least else None

    for layer in possible[:_MOST_LAYERS]:
        if plan := budget.attempt("recurrent layers on integers", partial(better, layer)):
            best = plan
    return best
