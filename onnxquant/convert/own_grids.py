"""Weights of a plan that lie on a grid already: they keep their codes, and nothing is rounded."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from onnxquant.formats.base import Encoded
from onnxquant.formats.integers import Int8, Integers
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find_sites
from onnxquant.plan.context import Context
from onnxquant.plan.decision import Decision, EncodeDecision, Plan
from onnxquant.plan.planner import in_other_format
from onnxquant.solvers.own_grid import OwnGrid, own_grid
from onnxquant.solvers.rtn import Rtn
from onnxquant.targets import Activations, target_named
from onnxquant.targets.node_builder import F32

# Names of weights that a note gives.
_SHOWN = 3


class KeptWeights(Mapping[str, Encoded]):
    """Weights on their own grids by name, encoded when they are asked for.

    Args:
        document: the float model.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._grids: dict[str, tuple[Site, OwnGrid]] = {}

    def add(self, site: Site, grid: OwnGrid) -> None:
        """Add a weight with its grid."""
        self._grids[site.name] = site, grid

    @property
    def with_rounded_scales(self) -> list[str]:
        """Names of the weights whose scales lose digits."""
        return [name for name, (_, grid) in self._grids.items() if not grid.is_exact]

    def __getitem__(self, name: str) -> Encoded:
        site, grid = self._grids[name]
        return grid.encoded(site.view.matrix(self._document.array(site.tensor)))

    def __contains__(self, name: object) -> bool:
        return name in self._grids

    def __iter__(self) -> Iterator[str]:
        return iter(self._grids)

    def __len__(self) -> int:
        return len(self._grids)


@dataclass(frozen=True)
class KeptPlan:
    """A plan in which weights that lie on a grid keep it.

    Attributes:
        plan: the plan.
        weights: these weights, encoded.
        notes: sentences on them, and on those whose grid the format has no codes for.
    """

    plan: Plan
    weights: KeptWeights
    notes: tuple[str, ...]


def keep_own_grids(context: Context, plan: Plan, chosen: Mapping[str, Encoded], others: Container[str]) -> KeptPlan:
    """The plan with the formats that keep weights which lie on a grid.

    Args:
        context: context with the model that the plan is of.
        plan: plan with solvers.
        chosen: weights by name whose codes are chosen already.
        others: names of further weights that do not keep theirs.
    """
    document, weights = context.document, KeptWeights(context.document)
    sites = {site.name: site for site in find_sites(document)[0]}
    decisions: list[Decision] = []
    rounded: list[str] = []
    for decision in plan.decisions:
        form, solved = decision.format, chosen.get(decision.name)
        if not isinstance(decision, EncodeDecision) or not isinstance(form, Integers) or form.permuted:
            decisions.append(decision)
        elif solved is not None and solved.format in (form, form.with_(wide_scales=True)):
            decisions.append(replace(decision, format=solved.format))
        elif decision.name in others or decision.clip is not None:
            decisions.append(decision)
        else:
            site = sites[decision.name]
            weight = site.view.matrix(document.array(site.tensor))
            in_float32 = site.tensor.data_type == F32 and not context.options.in_float16
            choice = _kept(decision, site, own_grid(form, weight), document.opset, in_float32=in_float32)
            if choice is not None:
                weights.add(site, choice.grid)
            elif remedy := _remedy(decision, form, weight):
                rounded.append(f"{site.name} ({remedy})")
            decisions.append(choice.decision if choice else decision)
    return KeptPlan(replace(plan, decisions=tuple(decisions)), weights, _notes(weights, rounded))


@dataclass(frozen=True)
class _Kept:
    """The decision that keeps a weight on its grid.

    Attributes:
        decision: the decision.
        grid: the grid, as the format of the decision stores it.
    """

    decision: EncodeDecision
    grid: OwnGrid


def _kept(decision: EncodeDecision, site: Site, grid: OwnGrid | None, opset: int, *, in_float32: bool) -> _Kept | None:
    """The decision that keeps a weight on its grid, with scales in float32 where the target has them and they need it."""
    for own in (grid, grid.in_float16) if grid else ():
        if own is None or (own.form.wide_scales and not in_float32):
            continue
        other = in_other_format(decision, site, own.form, opset)
        if other is not None:
            return _Kept(replace(other, solver=Rtn.name, reason=f"{other.reason}; keeps the grid it lies on"), own)
    return None


def _remedy(decision: EncodeDecision, form: Integers, weight: NDArray[Any]) -> str:
    """The options that would keep the grid of a weight for which a format has no codes; empty where it lies on none."""
    eight = Int8(block_size=form.block_size, per_channel=form.per_channel, symmetric=form.symmetric)
    others = {"--asymmetric": form, "--bits 8": eight, "--bits 8 --asymmetric": eight}
    for options, other in others.items():
        if own_grid(replace(other, symmetric=False) if "--asymmetric" in options else other, weight):
            has_integers = target_named(decision.target).activations is not Activations.NONE
            return "integer kernels take no zero points" if has_integers else f"{options} keeps it"
    return ""


def _notes(weights: KeptWeights, rounded: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if weights:
        count = len(weights.with_rounded_scales)
        scales = f"; scales of {count} are rounded to float16" if count else ""
        notes.append(f"{len(weights)} weights lie on a grid already and keep it, with its codes and scales{scales}")
    if rounded:
        more = f" and {len(rounded) - _SHOWN} others" if len(rounded) > _SHOWN else ""
        notes.append(
            f"{len(rounded)} weights lie on a grid that their format has no codes for; they are rounded again: "
            f"{', '.join(rounded[:_SHOWN])}{more}"
        )
    return tuple(notes)
