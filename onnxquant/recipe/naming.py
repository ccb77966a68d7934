"""Options that name the way of quantizing, and the goal that chooses among all ways where none is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxquant.errors import RecipeError
from onnxquant.recipe.declaration import format_options
from onnxquant.recipe.values import Goal
from onnxquant.targets import AUTO

# The parameters of formats name the way, too.
_NAMING = (
    "format", "bits", "formats", "budget_bpw", "max_size", "activations", "auto_exclude", "float16", "whole_graph",
    "solver", "target", "compute", "permutation", "keep_io_types", "cost", "prune",
)  # fmt: skip
# A rule that names these has weights of a known format.
_NAMING_RULE = ("format", "bits", "solver", "target", "compute", "prune")


def with_goal(entries: Mapping[str, Any] | None, keywords: Mapping[str, Any], *, has_samples: bool) -> dict[str, Any]:
    """Keywords with the goal by which the way is chosen, where there is one.

    Args:
        entries: entries of the recipe
        keywords: options of the user
        has_samples: whether there are samples to choose by

    Raises:
        RecipeError: a goal is asked for, and the way is named.
    """
    entries = entries or {}
    named = _named(entries, keywords)
    goal = keywords.get("goal") or (_table(entries).get("goal"))
    if goal is not None and named:
        what = "goal compares ways that keep all weights" if named.startswith("prune") else "goal chooses that itself"
        raise RecipeError(f"{named}: {what}; leave out one of the two")
    is_compared = not keywords.get("dry_run") and keywords.get("proof", _table(entries).get("proof")) is not False
    if goal is None and not named and has_samples and is_compared:
        return {**keywords, "goal": Goal.FAST.value}
    return dict(keywords)


def names_the_way(entries: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> bool:
    """Whether an option or a rule names the way.

    Args:
        entries: entries of the recipe
        keywords: options of the user
    """
    return bool(_named(entries or {}, keywords))


def _named(entries: Mapping[str, Any], keywords: Mapping[str, Any]) -> str:
    """The first option that names the way; empty where none does."""
    places = (keywords, _table(entries), {k: v for k, v in entries.items() if k not in ("rules", "options")})
    for name in (*_NAMING, *format_options()):
        if any(_is_set(name, place.get(name)) for place in places):
            return name
    rules = entries.get("rules", ())
    names = (*_NAMING_RULE, *format_options())
    tables = [rule for rule in rules if isinstance(rule, Mapping)] if isinstance(rules, list) else []
    return next((f"{name} of a rule" for rule in tables for name in names if rule.get(name) is not None), "")


def _is_set(name: str, value: object) -> bool:
    """Whether an option has a value; a switch that is off names nothing, nor do ``auto`` and an empty list."""
    return value is not None if name in format_options() else value not in (None, False, (), [], AUTO)


def _table(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a recipe; a table that is none is refused where it is read."""
    table = entries.get("options", {})
    return table if isinstance(table, Mapping) else {}
