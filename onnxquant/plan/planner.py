"""From sites and rules to decisions. Looks at shapes only, never at a weight's values."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol, Self

import onnx

from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.graph.sites import How, Left, Site
from onnxquant.recipe.rules import Recipe, Rule
from onnxquant.targets import AUTO, Refusal, automatic, target_named

# A weight must come out at least this much smaller, or it is not worth its error.
WORTHWHILE = 0.85
# Below so many weights a block-wise kernel saves no time: float weights stay in cache, and activations still have to be
# quantized. Measured by scripts/bench_small_products.py; target auto decodes such weights at load.
FOLD_BELOW = 1 << 16
# In the place of a target: the weight stays in float.
KEPT = "kept"


@dataclass(frozen=True)
class Decision:
    """What becomes of one constant weight, and why.

    Attributes:
        name: of the weight.
        role: of what consumes it.
        nodes: names of the consumers.
        shape, dtype, elements, float_bytes: of the weight as it is.
        format, target: what it becomes; None: it stays as it is.
        nbytes: bytes of the planes, or of the float weight that stays.
        reason: why it stays, or why this target.
        refusals: targets that were tried before, with their reasons.
        folded: it is decoded to a float tensor when a session is created.
        solver: how its codes are chosen; ``auto``: not decided yet.
    """

    name: str
    role: str
    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    elements: int
    float_bytes: int
    nbytes: int
    reason: str
    format: Format | None = None
    target: str | None = None
    refusals: tuple[str, ...] = ()
    folded: bool = False
    solver: str = "rtn"

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per weight, side information and padding included."""
        return 8 * self.nbytes / self.elements if self.elements else 0.0

    def left(self, reason: str) -> Decision:
        """The decision to leave the weight in float after all."""
        return replace(self, format=None, target=None, nbytes=self.float_bytes, reason=reason)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``.

        Raises:
            RecipeError: no such format is installed.
        """
        made = entries["format"]
        return cls(
            name=entries["name"], role=entries["role"], nodes=tuple(entries["nodes"]), shape=tuple(entries["shape"]),
            dtype=entries["dtype"], elements=prod(entries["shape"]), float_bytes=entries["float_bytes"],
            nbytes=entries["bytes"], reason=entries["reason"],
            format=format_named(made, **entries["parameters"]) if made else None, target=entries["target"],
            refusals=tuple(entries["refusals"]), folded=entries["folded"], solver=entries["solver"] or "rtn",
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {
            "name": self.name,
            "role": self.role,
            "nodes": list(self.nodes),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "format": self.format.name if self.format else None,
            "parameters": _parameters(self.format) if self.format else {},
            "target": self.target,
            "folded": self.folded,
            "solver": self.solver if self.format else None,
            "float_bytes": self.float_bytes,
            "bytes": self.nbytes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "compression_ratio": round(self.float_bytes / self.nbytes, 4) if self.nbytes else None,
            "reason": self.reason,
            "refusals": list(self.refusals),
        }


class Activations(Protocol):
    """What becomes of activations."""

    @property
    def observed(self) -> Mapping[str, Any]:
        """Histograms that ranges were chosen by; they are for reports, not for the file."""

    def insert(self, proto: onnx.ModelProto) -> None:
        """Put their nodes into a model whose weights are lowered."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the file's metadata and reports."""


@dataclass(frozen=True)
class Plan:
    """Every constant weight with its decision.

    Attributes:
        decisions: in graph order, sites first.
        unused_rules: rules that matched nothing, by their place.
        predicted_bytes: size of the output; None before it was computed.
        activations: puts codes for activations into the lowered model; None: they stay in float.
        search: how formats were chosen under a bound; empty where rules named them.
        rescaled: names of weights that were made other ones of an equal function before they were encoded.
        origin: what the file says it was made of, as JSON.
    """

    decisions: tuple[Decision, ...]
    unused_rules: tuple[int, ...] = ()
    predicted_bytes: int | None = None
    activations: Activations | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    rescaled: tuple[str, ...] = ()
    origin: str = ""

    @property
    def encoded(self) -> list[Decision]:
        """Decisions that change a weight."""
        return [d for d in self.decisions if d.format]

    @property
    def about_activations(self) -> dict[str, Any]:
        """What becomes of activations, as plain data; empty where they stay floats."""
        return self.activations.to_dict() if self.activations else {}

    @property
    def observed(self) -> dict[str, Any]:
        """Histograms of activations that ranges were chosen by, as plain data."""
        return dict(self.activations.observed) if self.activations else {}


def make_plan(
    sites: Sequence[Site],
    left: Sequence[Left],
    recipe: Recipe,
    opset: int,
    assigned: Mapping[str, str] | None = None,
    permuted: Container[str] = (),
) -> Plan:
    """Decide every site by the first rule that matches it.

    Args:
        sites: of the prepared model.
        left: constants of it that are no sites.
        recipe: the rules.
        opset: of the model.
        assigned: target by site for those that integer activations have claimed, see ``beside_integers``, or ``KEPT``
            for those that were found to cost too much accuracy.
        permuted: sites whose columns are to be stored in another order, where their target can do that.
    """
    decisions, used = [], set()
    for site in sites:
        found = matching(site, recipe)
        if found is None:
            decisions.append(_undecided(site).left("no rule matches it"))
            continue
        used.add(found[0])
        target = (assigned or {}).get(site.name)
        if target == KEPT:
            decisions.append(_undecided(site).left("left in float for accuracy"))
        elif target:
            decisions.append(_assigned(site, found[1], target, opset))
        else:
            decision = _decide(site, found[1], opset, permuted=site.name in permuted)
            decisions.append(replace(decision, solver=found[1].solver))
    decisions += [Decision(c.name, "", (), c.shape, c.dtype, prod(c.shape), c.nbytes, c.nbytes, c.reason) for c in left]
    unused = tuple(i for i in range(len(recipe.rules) - 1) if i not in used)
    return Plan(tuple(decisions), unused)


def beside_integers(site: Site, recipe: Recipe, target: str, opset: int) -> Refusal | None:
    """Why a site cannot be multiplied with integer activations under these rules; None when it can.

    Args:
        site: the weight.
        recipe: the rules.
        target: ``qdq`` or ``dynamic``.
        opset: the model will have.
    """
    found = matching(site, recipe)
    if found is None:
        return Refusal("no rule matches its weight")
    if found[1].keep:
        return Refusal("a rule keeps its weight in float")
    return target_named(target).check(site, found[1].make_format().folded(), opset)


def matching(site: Site, recipe: Recipe) -> tuple[int, Rule] | None:
    """The first rule that matches a site, with its place."""
    return next(((i, r) for i, r in enumerate(recipe.rules) if r.matches(site)), None)


def _assigned(site: Site, rule: Rule, target: str, opset: int) -> Decision:
    form, chosen = rule.make_format().folded(), target_named(target)
    stored = [s for layout in chosen.layouts(site, form, opset).values() for s in layout.stored().values()]
    return replace(
        _undecided(site), format=form, target=target, nbytes=sum(s.nbytes for s in stored), reason=chosen.summary
    )


def _decide(site: Site, rule: Rule, opset: int, *, permuted: bool) -> Decision:
    if rule.keep:
        return _undecided(site).left("a rule keeps it in float")
    form = rule.make_format()
    decision = decide(site, form.with_(permuted=True), rule, opset) if permuted else None
    return decision if decision and decision.format else decide(site, form, rule, opset)


def decide(site: Site, form: Format, rule: Rule, opset: int) -> Decision:
    """The first target that takes a site in a format, with the refusals on the way; or why it stays in float.

    Args:
        site: the weight.
        form: what it is to be encoded in, whatever the rule's own format is.
        rule: says the target, and how products compute.
        opset: of the model.
    """
    decision, wanted = _undecided(site), rule.target
    if unfit := form.unfit(site.rows, site.cols):
        return decision.left(f"{form.name}: {unfit}")
    small = wanted == AUTO and site.elements < FOLD_BELOW
    if small or not site.has_kernel or (rule.compute == "float" and site.served(How.PRODUCT)):
        decision = replace(decision, folded=True, reason="decoded at load, runs at float speed")
        site, form = site.folded(), form.folded()
    refusals: list[str] = []
    for name in [wanted] if wanted != AUTO else automatic(form, folded=decision.folded):
        target = target_named(name)
        refusal = target.check(site, form, opset)
        if refusal is None:
            layouts = target.layouts(site, form, opset)
            nbytes = sum(s.nbytes for layout in layouts.values() for s in layout.stored().values())
            if nbytes <= WORTHWHILE * site.nbytes:
                reason = decision.reason or target.summary
                if len(layouts) > 1:
                    reason += "; stored once per kind of consumer, which want different orders"
                return replace(
                    decision, format=form, target=name, nbytes=nbytes, reason=reason, refusals=tuple(refusals)
                )
            refusal = Refusal(f"{nbytes} bytes would not be worth it against {site.nbytes} in {site.dtype}")
        refusals.append(f"{name}: {refusal}")
    return replace(decision.left(refusals[-1]), refusals=tuple(refusals))


def _undecided(site: Site) -> Decision:
    return Decision(
        name=site.name,
        role=site.role,
        nodes=tuple(u.node.name or u.node.output[0] for u in site.uses),
        shape=site.shape,
        dtype=site.dtype,
        elements=site.elements,
        float_bytes=site.nbytes,
        nbytes=site.nbytes,
        reason="",
    )


def _parameters(form: Format) -> dict[str, Any]:
    """Those that are set, and what encoding sets: enough to make the format again."""
    return {**{p: getattr(form, p) for p in form.parameters() if getattr(form, p) is not None}, **form.settings()}
