"""Targets: the nodes that an encoded weight becomes. A module here with a ``Target`` subclass is all it takes to add one.

They may import runtime and the rooms below; passes and the rooms above it may import them. Packages outside register
through the entry point group ``onnxquant.targets``.
"""

from __future__ import annotations

import sys
from functools import cache

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats.base import Format
from onnxquant.graph.refusal import Refusal
from onnxquant.registry import classes
from onnxquant.targets.base import Lowered, Result, Target
from onnxquant.targets.kinds import Activations
from onnxquant.targets.layouts.base import Layout

__all__ = [
    "AUTO",
    "Activations",
    "Lowered",
    "Refusal",
    "Result",
    "Target",
    "automatic",
    "integer_target",
    "layout_types",
    "registry",
    "target_named",
    "targets",
    "weight_targets",
]

AUTO = "auto"


@cache
def registry() -> dict[str, Target]:
    """Targets by name."""
    by_name = classes(sys.modules[__name__], Target, "onnxquant.targets", trial=_use)
    return {name: target() for name, target in by_name.items()}


def _use(target: type[Target]) -> tuple[object, ...]:
    return target().summary, [layout.name for layout in target.layout_types]


def targets() -> list[Target]:
    """Every target; each has ``.name`` and ``.summary``."""
    return list(registry().values())


def weight_targets() -> list[str]:
    """Names of the targets that a rule can ask for: their products take floats."""
    return [t.name for t in targets() if t.activations is Activations.NONE]


def integer_target(kind: Activations, role: str = "") -> Target:
    """The target that holds weights of a role beside integer activations of a kind.

    Raises:
        RecipeError: no target does.
    """
    of_kind = {t.role: t for t in targets() if t.activations is kind and kind is not Activations.NONE}
    if target := of_kind.get(role) or of_kind.get(""):
        return target
    raise RecipeError(f"no target multiplies weights with {kind} activations")


def automatic(form: Format, *, folded: bool) -> list[str]:
    """Names of the targets that ``auto`` tries for a weight in a format, in their order.

    Args:
        form: format of the weight.
        folded: whether the weight is decoded when a session is created.
    """
    ranks = {t.name: t.rank(form, folded=folded) for t in targets()}
    return sorted((name for name, rank in ranks.items() if rank is not None), key=lambda n: (ranks[n], n))


@cache
def layout_types() -> dict[str, type[Layout]]:
    """The layouts that targets declare, by the names that files have for them.

    Raises:
        RecipeError: two layouts have the same name.
    """
    types: dict[str, type[Layout]] = {}
    for target in targets():
        for layout in target.layout_types:
            if types.setdefault(layout.name, layout) is not layout:
                raise RecipeError(f"target {target.name}: another target has a layout called {layout.name!r}")
    return types


def target_named(name: str) -> Target:
    """A target by name.

    Raises:
        RecipeError: no such target; the message names the nearest.
    """
    if name not in registry():
        raise RecipeError(f"unknown target {name!r}{nearest(name, [AUTO, *registry()])}")
    return registry()[name]

