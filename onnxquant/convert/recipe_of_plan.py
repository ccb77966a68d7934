"""A plan as a recipe: what was decided, by rules or by a search, in a file to edit and to quantize with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxquant.errors import RecipeError
from onnxquant.graph.publish import atomically
from onnxquant.graph.sites import Site
from onnxquant.plan.decision import KeepDecision, Plan
from onnxquant.plan.planner import first_matching_rule
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe, Rule
from onnxquant.targets import AUTO, Activations, target_named

# What only holds for how a plan was found, not for the plan.
_OF_THE_SEARCH = ("formats", "budget_bpw", "max_size", "cost", "min_sqnr", "metric", "max_drop", "auto_exclude")


def entries_of(plan: Plan, sites: Sequence[Site], rules: Recipe, settings: Options) -> dict[str, Any]:
    """The entries of a recipe that makes the same plan of the same model.

    Args:
        plan: with solvers.
        sites: of the model that it is of.
        rules: those that it was made by.
        settings: those that it was made with.

    Raises:
        RecipeError: a weight cannot be told by its name, as a node of another one has the same.
    """
    found = {s.name: s for s in sites}
    groups: list[dict[str, Any]] = []
    names: list[list[str]] = []
    wanted: dict[str, int] = {}
    for decision in plan.encoded:
        match = first_matching_rule(found[decision.name], rules)
        assert match
        # One solver is chosen for all weights beside integer activations.
        integer = target_named(decision.target).activations is not Activations.NONE
        solver = None if integer else decision.solver
        group = _group(match[1], solver)
        if group not in groups:
            groups.append(group)
            names.append([])
        wanted[decision.name] = groups.index(group)
        names[wanted[decision.name]].append(f"^{re.escape(decision.name)}$")
    options = {k: v for k, v in settings.lasting().items() if k not in _OF_THE_SEARCH}
    entries: dict[str, Any] = {"format": rules.rules[-1].make_format().name, "keep": True}
    if options:
        entries["options"] = options
    entries["rules"] = [{"include": n, **g} for n, g in zip(names, groups, strict=True)]
    _check(Recipe.from_dict(entries), sites, wanted)
    return entries


def save(plan: Plan, sites: Sequence[Site], rules: Recipe, settings: Options) -> None:
    """Write the recipe of a plan to ``settings.save_recipe``.

    Raises:
        RecipeError: see ``entries_of``.
        OutputError: the file cannot be written.
    """
    kept = [f"{d.name}: {d.reason}" for d in plan.decisions if d.role and isinstance(d, KeepDecision)]
    text = to_toml(entries_of(plan, sites, rules, settings), kept)
    with atomically(Path(settings.save_recipe or "")) as stream:
        stream.write(text.encode(errors="backslashreplace"))


def to_toml(entries: Mapping[str, Any], kept: Sequence[str] = ()) -> str:
    """A recipe as TOML.

    Args:
        entries: of the recipe.
        kept: weights that stay in float and why, for a comment.

    >>> print(to_toml({"keep": True, "rules": [{"include": ["^w$"], "bits": 4}]}), end="")
    # A plan, as a recipe: the first rule that matches a weight decides it; what no rule names stays in float.
    keep = true
    <BLANKLINE>
    [[rules]]
    include = [
        '^w$',
    ]
    bits = 4
    """
    lines = [
        "# A plan, as a recipe: the first rule that matches a weight decides it; what no rule names stays in float."
    ]
    lines += [f"#   {' '.join(line.split())}" for line in kept]
    lines += [f"{k} = {_value(v)}" for k, v in entries.items() if k not in ("options", "rules")]
    tables = [("[options]", entries["options"])] if "options" in entries else []
    for header, table in [*tables, *(("[[rules]]", rule) for rule in entries["rules"])]:
        lines += ["", header, *(f"{k} = {_value(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _group(rule: Rule, solver: str | None) -> dict[str, Any]:
    out: dict[str, Any] = {"format": rule.make_format().name, **rule.parameters}
    out |= {key: getattr(rule, key) for key in ("target", "compute") if getattr(rule, key) != AUTO}
    return out if solver is None else {**out, "solver": solver}


def _check(made: Recipe, sites: Sequence[Site], wanted: Mapping[str, int]) -> None:
    for site in sites:
        match = first_matching_rule(site, made)
        assert match
        if match[0] != wanted.get(site.name, len(made.rules) - 1):
            raise RecipeError(
                f"weight {site.name!r}: its plan is no recipe, as a node that consumes it is called like another weight"
            )


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "".join(["[", *(f"\n    {_value(v)}," for v in value), "\n]"])
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str) and value.isprintable() and "'" not in value:
        return f"'{value}'"  # as it is: most strings here are regular expressions
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
