"""Classes that register by being there: in the modules of a package of ours, or as entry points of other packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any


def classes(package: ModuleType, base: type[Any], group: str) -> dict[str, type[Any]]:
    """Concrete subclasses by their ``name``, in its order.

    Args:
        package: whose modules are searched.
        base: of all of them.
        group: of entry points, each naming a class.
    """
    found: set[type[Any]] = {entry.load() for entry in entry_points(group=group)}
    for module in pkgutil.iter_modules(package.__path__):
        members = vars(importlib.import_module(f"{package.__name__}.{module.name}")).values()
        found |= {m for m in members if inspect.isclass(m) and issubclass(m, base) and not inspect.isabstract(m)}
    return {c.name: c for c in sorted(found - {base}, key=lambda c: c.name)}
