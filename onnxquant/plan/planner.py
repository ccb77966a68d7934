"""Decisions about every weight of a model, by rules and shapes. No value of a weight is read."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from onnxquant.errors import RecipeError
from onnxquant.formats.base import Format
from onnxquant.formats.integers import Integers
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import MIN_ELEMENTS, Site, SkippedConstant, too_small
from onnxquant.plan.clients import refusal_of_clients
from onnxquant.plan.decision import Decision, EncodeDecision, KeepDecision, Plan, WeightFacts
from onnxquant.plan.eight_bits import is_for_products, with_eight_bits
from onnxquant.recipe.rules import Recipe, Rule, names_of
from onnxquant.recipe.values import Compute
from onnxquant.targets import AUTO, Activations, Refusal, Target, automatic, integer_target, target_named, targets

# A weight must come out at least this much smaller, or it is not worth its error.
WORTHWHILE = 0.85
# Below so many weights a block-wise kernel saves no time: float weights stay in cache, and activations still have to be
# quantized. Measured by scripts/bench_small_products.py; target auto decodes such weights at load.
FOLD_BELOW = 1 << 16


@dataclass(frozen=True)
class IntegerSites:
    """Sites that integer activations decide. Rules choose nothing but their format.

    Attributes:
        kind: kind of the activations
        multiplied: names of the sites whose products take integer activations
        in_float: names of the sites that stay in float for the accuracy of the model
    """

    kind: Activations = Activations.NONE
    multiplied: frozenset[str] = frozenset()
    in_float: frozenset[str] = frozenset()


NO_INTEGER_SITES = IntegerSites()
# The reason why a site is not multiplied with static activations, where it is with dynamic ones.
DYNAMIC_BY_RULE = Refusal("a rule has its activations rounded on every call")


def make_plan(
    sites: Sequence[Site],
    skipped: Sequence[SkippedConstant],
    recipe: Recipe,
    opset: int,
    integer: IntegerSites = NO_INTEGER_SITES,
    permuted: Container[str] = (),
) -> Plan:
    """Decide every site by the first rule that matches it.

    Args:
        sites: sites of the prepared model
        skipped: constants of it that are no sites
        recipe: rules, in order
        opset: opset of the model
        integer: sites that integer activations decide
        permuted: names of sites whose columns are to be stored in another order, where their target can do that
    """
    decisions: list[Decision] = []
    used = set()
    by_bits: dict[str, Site] = {}
    for site in sites:
        match = first_matching_rule(site, recipe)
        if match is None:
            decisions.append(_keep(site, _unmatched(site, recipe)))
            continue
        place, rule = match
        used.add(place)
        if site.name in integer.in_float:
            decisions.append(_keep(site, "left in float for accuracy"))
        elif site.name in integer.multiplied:
            decisions.append(_beside_integers(site, rule, integer_target(integer.kind, site.role), opset))
        elif integer.kind is Activations.STATIC and _is_dynamic(site, rule, opset):
            decisions.append(_beside_integers(site, rule, integer_target(Activations.DYNAMIC), opset))
        else:
            decisions.append(_decide_by_rule(site, rule, opset, permuted=site.name in permuted))
            by_bits |= {site.name: site} if is_for_products(rule) else {}
    decisions += [
        KeepDecision(
            name=c.name, role="", nodes=(), shape=c.shape, dtype=c.dtype, float_bytes=c.nbytes, reason=c.reason
        )
        for c in skipped
    ]
    if by_bits:
        last = recipe.rules[-1]
        decisions = with_eight_bits(decisions, by_bits, lambda site, form: decide(site, form, last, opset))
    unused = tuple(i for i, rule in enumerate(recipe.rules[:-1]) if i not in used and not rule.optional)
    return Plan(tuple(decisions), unused)


def _unmatched(site: Site, recipe: Recipe) -> str:
    """The reason why no rule matches a site: the option that leaves it out, or its size."""
    if site.elements < MIN_ELEMENTS:
        return too_small(site.elements)
    last = recipe.rules[-1]
    pattern = next((p for p in last.exclude if any(re.search(p, name) for name in names_of(site))), None)
    if pattern is not None:
        return f"--exclude {pattern!r} leaves it in float"
    return "--include does not name it" if last.include else "no rule matches it"


def refusal_beside_integers(site: Site, recipe: Recipe, kind: Activations, opset: int) -> Refusal | None:
    """The reason why a site cannot be multiplied with integer activations under these rules; None when it can.

    Args:
        site: the weight
        recipe: rules, in order
        kind: kind of the activations
        opset: opset that the model will have
    """
    match = first_matching_rule(site, recipe)
    if match is None:
        return Refusal("no rule matches its weight")
    rule = match[1]
    if rule.keep:
        return Refusal("a rule keeps its weight in float")
    if rule.float_activations:
        return Refusal("a rule leaves its activations in float")
    if kind is Activations.STATIC and _is_dynamic(site, rule, opset):
        return DYNAMIC_BY_RULE
    return integer_target(kind, site.role).check(site, _integer_format(site, rule), opset)


def _is_dynamic(site: Site, rule: Rule, opset: int) -> bool:
    """Whether activations of a site are rounded on every call: its rule asks for it, and there is an operator for it."""
    dynamic = integer_target(Activations.DYNAMIC)
    return rule.dynamic_activations and dynamic.check(site, _integer_format(site, rule), opset) is None


def first_matching_rule(site: Site, recipe: Recipe) -> tuple[int, Rule] | None:
    """The first rule that matches a site, with its place in the recipe."""
    return next(((i, r) for i, r in enumerate(recipe.rules) if r.matches(site)), None)


def decide(site: Site, form: Format, rule: Rule, opset: int) -> Decision:
    """The decision for a site in a format: the first target that takes it, or the reason why it stays in float.

    Args:
        site: the weight
        form: format of its codes; the rule's own format does not count
        rule: the rule that names target, solver and arithmetic
        opset: opset of the model
    """
    if form.changes_nothing:
        return _keep(site, f"{form.name} leaves it as it is")
    if unfit := form.unfit(site.rows, site.cols):
        return _keep(site, f"{form.name}: {unfit}")
    if (as_codes := _in_layer_of_experts(site, form, rule, opset)) is not None:
        return as_codes
    folded = is_decoded_at_load(site, rule)
    decision = _decide_placed(site, form, rule, opset, folded=folded)
    if isinstance(decision, KeepDecision) and rule.clients and not folded:
        # Where a client has no kernel for the codes, or a slow one, it may still decode them when it loads the file.
        decoded = _decide_placed(site, form, rule, opset, folded=True)
        return decoded if isinstance(decoded, EncodeDecision) else decision
    return decision


def _decide_placed(site: Site, form: Format, rule: Rule, opset: int, *, folded: bool) -> Decision:
    """The decision for a site whose weight is decoded where ``folded`` says: when a session is created, or in its product."""
    lowered_site, lowered_form = (site.folded(), form.for_decoding_at_load()) if folded else (site, form)
    refusals: list[str] = []
    automatically = automatic(lowered_form, folded=folded)
    if rule.float16:  # these products take float16 themselves
        automatically.sort(key=lambda name: not target_named(name).takes_float16(lowered_form))
    for name in [rule.target] if rule.target != AUTO else automatically:
        target = target_named(name)
        refusal, usable = target.check(lowered_site, lowered_form, opset), opset
        if refusal is not None:  # a client may refuse it at every opset: then a newer one is no remedy
            usable = max(opset, target.wanted_opset(lowered_site, lowered_form))
        if refusal is None or (usable > opset and target.check(lowered_site, lowered_form, usable) is None):
            of_client = refusal_of_clients(lowered_site, lowered_form, target, usable, rule.clients)
            refusal = of_client or refusal
        if refusal is None:
            nbytes, copies = _stored_bytes(target, lowered_site, lowered_form, opset)
            if nbytes <= WORTHWHILE * site.nbytes:
                reason = "decoded at load, runs at float speed" if folded else target.summary
                if rule.clip is not None:
                    reason += f"; clipped by {rule.clip}"
                if copies > 1:
                    reason += "; stored once per kind of consumer, which want different orders"
                return EncodeDecision(
                    **_facts(site), reason=reason, refusals=tuple(refusals), format=lowered_form, target=name,
                    nbytes=nbytes, folded=folded, solver=rule.solver, clip=rule.clip,
                )  # fmt: skip
            refusal = Refusal(f"{nbytes} bytes would not be worth it against {site.nbytes} in {site.dtype}")
        refusals.append(f"{name}: {refusal}")
    return _keep(site, refusals[-1], tuple(refusals))


def in_other_format(decision: EncodeDecision, site: Site, form: Format, opset: int) -> EncodeDecision | None:
    """A decision with another format, by the same target; None where that cannot hold it."""
    target = target_named(decision.target)
    lowered_site = site.folded() if decision.folded else site
    if not target.holds(form) or target.check(lowered_site, form, opset) is not None:
        return None
    return replace(decision, format=form, nbytes=_stored_bytes(target, lowered_site, form, opset)[0])


def _in_layer_of_experts(site: Site, form: Format, rule: Rule, opset: int) -> EncodeDecision | None:
    """The decision for a weight of experts whose codes an operator reads; None where none does."""
    is_small = rule.target == AUTO and site.elements < FOLD_BELOW
    if not site.served(UseKind.EXPERTS) or is_small or rule.compute == Compute.FLOAT or rule.clients:
        return None
    names = [t.name for t in targets() if t.takes_experts and rule.target in (AUTO, t.name)]
    decisions = (_decide_placed(site, form, replace(rule, target=name), opset, folded=False) for name in names)
    return next((d for d in decisions if isinstance(d, EncodeDecision)), None)


def is_decoded_at_load(site: Site, rule: Rule) -> bool:
    """Whether a rule has a weight decoded to a float tensor when a session is created, in every format."""
    if not site.has_kernel or (rule.target == AUTO and (site.elements < FOLD_BELOW or _is_gathered_matrices(site))):
        return True
    return rule.compute == Compute.FLOAT and bool(site.served(UseKind.PRODUCT))


def _is_gathered_matrices(site: Site) -> bool:
    """Whether a Gather chooses matrices of a weight, as of experts: decoding takes longer than the product with one."""
    return len(site.shape) > 2 and bool(site.served(UseKind.LOOKUP))


def _decide_by_rule(site: Site, rule: Rule, opset: int, *, permuted: bool) -> Decision:
    if rule.keep:
        return _keep(site, "a rule keeps it in float")
    form = rule.make_format()
    if permuted:
        decision = decide(site, form.with_(permuted=True), rule, opset)
        if isinstance(decision, EncodeDecision):
            return decision
    return decide(site, form, rule, opset)


def _integer_format(site: Site, rule: Rule) -> Format:
    """The format of a weight beside integers: one scale for all of it where products see it in different orders."""
    form = rule.make_format()
    views = {use.view for use in site.uses if use.kind is UseKind.PRODUCT}
    if len(views) > 1 and isinstance(form, Integers) and form.block_size is None and form.per_channel is None:
        return form.with_(per_channel=False)
    return form.for_decoding_at_load()


def _beside_integers(site: Site, rule: Rule, target: Target, opset: int) -> EncodeDecision:
    if rule.clip is not None:
        raise RecipeError(f"clip: has no effect on {site.name!r}, which is multiplied with integer activations")
    form = _integer_format(site, rule)
    nbytes, _ = _stored_bytes(target, site, form, opset)
    return EncodeDecision(
        **_facts(site), reason=target.summary, format=form, target=target.name, nbytes=nbytes,
    )  # fmt: skip


def _stored_bytes(target: Target, site: Site, form: Format, opset: int) -> tuple[int, int]:
    """Bytes of the planes that a target stores, and how many layouts they are in."""
    layouts = target.layouts(site, form, opset)
    return sum(layout.nbytes for layout in layouts), len(layouts)


def _keep(site: Site, reason: str, refusals: tuple[str, ...] = ()) -> KeepDecision:
    return KeepDecision(**_facts(site), reason=reason, refusals=refusals)


def _facts(site: Site) -> WeightFacts:
    return {
        "name": site.name,
        "role": site.role,
        "nodes": tuple(u.node.name or u.node.output[0] for u in site.uses),
        "shape": site.shape,
        "dtype": site.dtype,
        "float_bytes": site.nbytes,
    }
