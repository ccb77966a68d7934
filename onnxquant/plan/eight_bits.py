"""Small weights that keep 8 bits where products have fewer: they cost few bytes, and first layers cost much accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import Site
from onnxquant.plan.decision import Decision, EncodeDecision
from onnxquant.recipe.rules import DEFAULT_FORMAT, Rule

# The part of all weights' bytes that they may add together.
_SHARE = 0.05
_PRODUCT = "MatMul"
Decide = Callable[[Site, Format], Decision]


def is_for_products(rule: Rule) -> bool:
    """Whether a rule asks for few bits in general, by ``bits`` alone: not for a format, nor for weights of its own."""
    named = (rule.format, rule.parameters, rule.include, rule.op, rule.role)
    return rule.bits in (2, 3, 4) and not any(named)


def with_eight_bits(decisions: Sequence[Decision], sites: Mapping[str, Site], decide: Decide) -> list[Decision]:
    """The decisions, with 8 bits for weights outside of MatMul that together add at most 5 % to all, the smallest first.

    Args:
        decisions: decisions with few bits.
        sites: sites that may get 8 bits, by name.
        decide: function that decides a site in another format.
    """
    finer: dict[str, EncodeDecision] = {}
    for decision in decisions:
        site = sites.get(decision.name)
        if site is None or not isinstance(decision, EncodeDecision) or _is_multiplied(site):
            continue
        eight = decide(site, format_named(DEFAULT_FORMAT))
        if isinstance(eight, EncodeDecision) and eight.nbytes > decision.nbytes:
            reason = f"8 bits: outside of MatMul, small beside the others; {eight.reason}"
            finer[decision.name] = replace(eight, reason=reason)
    coarse = {d.name: d.nbytes for d in decisions if isinstance(d, EncodeDecision)}
    allowed = _SHARE * sum(d.nbytes for d in decisions)
    chosen: set[str] = set()
    for name in sorted(finer, key=lambda n: finer[n].nbytes):
        allowed -= finer[name].nbytes - coarse[name]
        if allowed < 0:
            break
        chosen.add(name)
    return [finer[d.name] if d.name in chosen else d for d in decisions]


def _is_multiplied(site: Site) -> bool:
    """Whether a MatMul reads a weight, or a layer of experts."""
    return any(use.node.op_type == _PRODUCT or use.kind is UseKind.EXPERTS for use in site.uses)
