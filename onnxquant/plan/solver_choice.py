"""The choice of a solver for every weight that is to be encoded."""

from __future__ import annotations

from dataclasses import replace

from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.errors import RecipeError
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.solvers import solver_named
from onnxquant.solvers.gptq import Gptq
from onnxquant.solvers.rtn import Rtn
from onnxquant.targets import AUTO, Activations, target_named

# From 8 bits on, the best solver does not beat rounding to nearest.
_ENOUGH_BITS = 8


def assign_solvers(plan: Plan, document: Document, *, has_samples: bool) -> Plan:
    """The plan with a solver for every weight that is to be encoded.

    Args:
        plan: plan of the document
        document: the float model
        has_samples: whether samples can show the inputs of weights

    Raises:
        RecipeError: a rule asks for a solver that needs the inputs of weights, and there are no samples.
    """
    main = document.proto.graph
    observable = {s.name for s in find_sites(document)[0] if nodes_showing_the_input(s, main)} if has_samples else set()
    decisions = [
        with_solver(d, inputs_observable=d.name in observable, has_samples=has_samples)
        if isinstance(d, EncodeDecision)
        else d
        for d in plan.decisions
    ]
    return replace(plan, decisions=tuple(decisions))


def with_solver(decision: EncodeDecision, *, inputs_observable: bool, has_samples: bool) -> EncodeDecision:
    """A decision with its solver.

    Args:
        decision: a decision, perhaps with the solver ``auto``
        inputs_observable: whether samples can show what the weight is multiplied with
        has_samples: whether there are samples

    Raises:
        RecipeError: its solver needs samples, and there are none.
    """
    if target_named(decision.target).activations is not Activations.NONE:
        return replace(decision, solver=Rtn.name)  # the search for integer activations solves these weights
    if decision.solver == AUTO:
        refused = Gptq().refusal(decision.format)
        best = inputs_observable and decision.format.bits < _ENOUGH_BITS and refused is None
        return replace(decision, solver=Gptq.name if best else Rtn.name)
    if solver_named(decision.solver).needs_inputs and not inputs_observable:
        if not has_samples:
            raise RecipeError(
                f"solver {decision.solver} needs samples that tell what weights are multiplied with: give --data"
            )
        reason = f"{decision.reason}; rounded to nearest: what it is multiplied with cannot be observed"
        return replace(decision, solver=Rtn.name, reason=reason)
    return decision
