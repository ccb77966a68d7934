"""Writer of a plan as a recipe that makes the same plan again, to edit and to quantize with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import yaml

from onnxquant.calibration.feeds import Preparation
from onnxquant.errors import RecipeError
from onnxquant.graph.sites import Site
from onnxquant.plan.decision import EncodeDecision, KeepDecision, Plan
from onnxquant.plan.planner import first_matching_rule
from onnxquant.recipe.declaration import declared
from onnxquant.recipe.files import is_yaml
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe, Rule, RuleOptions
from onnxquant.system.files import atomically
from onnxquant.targets import Activations, target_named

_HEADER = """\
# What was decided for each weight. `onnxquant quantize MODEL --recipe THIS_FILE` does it again.
# The first rule with a pattern under `include` that matches a weight's name decides it. All other weights stay in float.\
"""
# Options of a rule that follow from the plan, not from the rule that made it.
_PLANNED = ("format", "bits", "include", "exclude", "solver")


def entries_of(plan: Plan, sites: Sequence[Site], rules: Recipe, settings: Options) -> dict[str, Any]:
    """The entries of a recipe that makes the same plan of the same model.

    Args:
        plan: plan whose decisions have solvers
        sites: sites of the model
        rules: rules that the plan was made by
        settings: options that the plan was made with

    Raises:
        RecipeError: a weight has the name of a node that consumes another weight, so that no rule matches it alone.
    """
    by_name = {site.name: site for site in sites}
    groups: list[dict[str, Any]] = []
    names: list[list[str]] = []
    rule_of_weight: dict[str, int] = {}
    for decision in plan.decisions:
        match = first_matching_rule(by_name[decision.name], rules) if decision.name in by_name else None
        if isinstance(decision, EncodeDecision):
            if match is None:
                raise RecipeError(f"weight {decision.name!r}: no rule of its plan matches it")
            group = _group(match[1], decision, settings)
        elif match is not None and match[1].prune is not None:
            group = {"keep": True, "prune": match[1].prune}
        else:
            continue
        if group not in groups:
            groups.append(group)
            names.append([])
        rule_of_weight[decision.name] = groups.index(group)
        names[groups.index(group)].append(f"^{re.escape(decision.name)}$")
    options = settings.options_that_shape_the_plan()
    if settings.samples != declared(Options)["samples"].default:
        options["samples"] = settings.samples  # they divide the samples
    entries: dict[str, Any] = {"format": rules.last_format.name, "keep": True}
    if options:
        entries["options"] = options
    entries["rules"] = [{"include": include, **group} for include, group in zip(names, groups, strict=True)]
    _check(Recipe.from_dict(entries), sites, rule_of_weight)
    return entries


def save(
    plan: Plan, sites: Sequence[Site], rules: Recipe, settings: Options, preparation: Preparation | None = None
) -> None:
    """Write the recipe of a plan to ``settings.save_recipe``, as YAML where its ending says so, else as TOML.

    Args:
        plan: plan whose decisions have solvers
        sites: sites of the model
        rules: rules that the plan was made by
        settings: options that the plan was made with
        preparation: way from samples to inputs; None: there were no samples

    Raises:
        RecipeError: see ``entries_of``.
        OutputError: the file cannot be written.
    """
    floats = [f"{d.name}: {d.reason}" for d in plan.decisions if d.role and isinstance(d, KeepDecision)]
    place = Path(settings.save_recipe or "")
    written = to_yaml if is_yaml(place) else to_toml
    entries = entries_of(plan, sites, rules, settings)
    if preparation is not None and preparation.preprocess:
        entries["options"] = {**entries.get("options", {}), "preprocess": dict(preparation.preprocess)}
    text = written(entries, floats)
    with atomically(place) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def to_toml(entries: Mapping[str, Any], floats: Sequence[str] = ()) -> str:
    """A recipe as TOML.

    Args:
        entries: entries of the recipe
        floats: weights that stay in float and why, for a comment

    >>> print(to_toml({"keep": True, "rules": [{"include": ["^w$"], "bits": 4}]}), end="")
    # What was decided for each weight. `onnxquant quantize MODEL --recipe THIS_FILE` does it again.
    # The first rule with a pattern under `include` that matches a weight's name decides it. All other weights stay in float.
    keep = true
    <BLANKLINE>
    [[rules]]
    include = [
        "^w$",
    ]
    bits = 4
    """
    return _comments(floats) + tomli_w.dumps(entries)


def to_yaml(entries: Mapping[str, Any], floats: Sequence[str] = ()) -> str:
    """The same as YAML."""
    return _comments(floats) + yaml.safe_dump(dict(entries), sort_keys=False, allow_unicode=True)


def _comments(floats: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (_HEADER, *(f"#   {' '.join(line.split())}" for line in floats)))


def _group(rule: Rule, decision: EncodeDecision, settings: Options) -> dict[str, Any]:
    """Options of the rule that a decision needs, which it may share with other weights."""
    own = {k: v for k, v in rule.to_dict().items() if k in declared(RuleOptions) and k not in _PLANNED}
    is_rules = decision.format.name == rule.make_format().name  # small weights may have 8 bits
    group = {"format": decision.format.name, **(rule.parameters if is_rules else {}), **own}
    # One option chooses the solver for all weights beside integer activations, so a rule must not name one.
    target = target_named(decision.target)
    if target.activations is not Activations.NONE:
        # A layer that was tried is taken without being measured again.
        follows = target.activations == settings.activations and not target.role
        return group if follows else {**group, "dynamic_activations": True}
    # Beside integer activations what reads the weight was left in float, be it for its speed.
    in_float = {"float_activations": True} if settings.activations != Activations.NONE else {}
    solver = {} if settings.activations == Activations.STATIC else {"solver": decision.solver}
    return {**group, **solver, **in_float}


def _check(recipe: Recipe, sites: Sequence[Site], rule_of_weight: Mapping[str, int]) -> None:
    last = len(recipe.rules) - 1
    for site in sites:
        match = first_matching_rule(site, recipe)
        if match is None or match[0] != rule_of_weight.get(site.name, last):
            raise RecipeError(
                f"weight {site.name!r}: its plan is no recipe, as a node that consumes it is called like another weight"
            )
