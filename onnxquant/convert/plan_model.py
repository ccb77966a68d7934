"""The plan of a model, with the float model that it is of: prepared, and perhaps another one of the same function."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

from onnxquant.activations.dynamic import plan_dynamic
from onnxquant.activations.plan import ActivationPlan
from onnxquant.activations.static import plan_static
from onnxquant.budget.search import ChosenFormats
from onnxquant.convert.equivalent import equivalent_model, rescaled_weight_names
from onnxquant.convert.own_grids import keep_own_grids
from onnxquant.convert.prepare_model import weights_changed_on_request
from onnxquant.convert.whole_graph import with_float16
from onnxquant.formats.base import Encoded
from onnxquant.graph.analysis.quantized import rounds_activations
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.numerics.arrays import Order
from onnxquant.numerics.score import UnseenOutputs
from onnxquant.plan.context import Context
from onnxquant.plan.decision import Decision, KeepDecision, Plan
from onnxquant.plan.planner import make_plan
from onnxquant.plan.solver_choice import assign_solvers
from onnxquant.targets import AUTO, Activations
from onnxquant.targets.custom import Custom


@dataclass(frozen=True)
class PlannedModel:
    """A plan with the model that it is of, and the codes that were chosen on the way to it.

    Attributes:
        context: context whose document is that model
        plan: decision for every weight
        orders: stored order of columns, by weight, where it is another one
        solved: weights by name whose codes are chosen already
        notes: sentences on the changes of the model
        unseen: quality of integer activations on samples that have not made them, where that was judged
        on_grids: weights by name that lie on a grid already
    """

    context: Context
    plan: Plan
    orders: Mapping[str, Order]
    solved: Mapping[str, Encoded]
    notes: tuple[str, ...]
    unseen: UnseenOutputs | None = None
    on_grids: Mapping[str, Encoded] = field(default_factory=dict)

    @property
    def document(self) -> Document:
        """The float model that the plan is of."""
        return self.context.document


def plan_model(context: Context, search: ChosenFormats | None) -> PlannedModel:
    """The plan of a prepared model, for the function equal to it that is easiest to round."""
    equivalent = equivalent_model(context)
    activations = _activation_plan(context.with_document(equivalent.document))
    document = activations.document
    sites, skipped = find_sites(document)
    plan = make_plan(sites, skipped, context.rules, document.opset, activations.sites, equivalent.orders)
    rescaled = tuple(dict.fromkeys([*weights_changed_on_request(context), *equivalent.rescaled]))
    plan = replace(
        plan, activations=activations.activations, integer_operators=_takes_integer_operators(context),
        rescaled=rescaled, origin=context.origin, pruned=context.pruned.pruned if context.pruned else None,
    )  # fmt: skip
    if search:
        plan = replace(plan, decisions=tuple(_with_reason(d, search.in_float) for d in plan.decisions))
    plan = assign_solvers(plan, document, has_samples=context.samples is not None)
    if context.options.in_float16:
        plan = with_float16(plan, document, context.options)
    solved = search.solved.without(equivalent.rescaled) if search else activations.solved
    context = context.with_document(document)
    gridded = keep_own_grids(context, plan, activations.solved, equivalent.orders)
    unseen = activations.activations.unseen if activations.activations else None
    return PlannedModel(
        context, gridded.plan, equivalent.orders, solved, (*equivalent.notes, *gridded.notes), unseen, gridded.weights
    )


def _takes_integer_operators(context: Context) -> bool:
    """Whether operators of ours may stand between integer kernels: no other target is named, and no client.

    Such kernels may be the model's own: it was quantized by another program, and its codes and scales stay as they are.
    """
    rules, options = context.rules, context.options
    is_free = not rules.clients and all(rule.keep or rule.target in (AUTO, Custom.name) for rule in rules.rules)
    if not is_free or options.in_float16:
        return False
    return options.activations != Activations.NONE or rounds_activations(context.document.proto)


def _with_reason(decision: Decision, in_float: Container[str]) -> Decision:
    """A decision; that of a weight which the search leaves in float says so: no rule of the user's does."""
    if isinstance(decision, KeepDecision) and decision.name in in_float:
        return replace(decision, reason="the search under the bound leaves it in float")
    return decision


def _activation_plan(context: Context) -> ActivationPlan:
    """The plan for integer activations. It may change weights before these are encoded."""
    kind = context.options.activations
    if kind == Activations.NONE:
        return ActivationPlan(context.document)
    before = context.document.copy()
    plan = plan_static(context) if kind == Activations.STATIC else plan_dynamic(context)
    # Whoever compares the file with its original must know which weights are not the original's.
    names = tuple(rescaled_weight_names(before, plan.document))
    return replace(plan, activations=replace(plan.activations, rescaled=names)) if plan.activations else plan
