"""Plug-ins: classes found in the modules of one of our packages, and classes that other packages register."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from onnxquant.errors import RecipeError


def classes(package: ModuleType, base: type[Any], group: str) -> dict[str, type[Any]]:
    """Concrete subclasses of a base by their ``name``, sorted by it; a class without a name is a base itself.

    Args:
        package: package of ours whose modules are searched
        base: base class of all of them
        group: group of entry points, each of which names a class of another package

    Raises:
        RecipeError: two classes have the same name, or an entry point cannot be loaded or names no such class.
    """
    members = {_loaded(entry, base) for entry in entry_points(group=group)}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        members.update(filter(inspect.isclass, vars(importlib.import_module(module.name)).values()))
    by_name: dict[str, type[Any]] = {}
    for cls in members:
        if not issubclass(cls, base) or inspect.isabstract(cls) or not hasattr(cls, "name"):
            continue
        other = by_name.setdefault(cls.name, cls)
        if other is not cls:
            places = sorted(f"{c.__module__}.{c.__qualname__}" for c in (cls, other))
            raise RecipeError(f"{group}: {' and '.join(places)} are both called {cls.name!r}")
    return dict(sorted(by_name.items()))


def _loaded(entry: EntryPoint, base: type[Any]) -> type[Any]:
    """The class that an entry point of another package names."""
    package = f" of {entry.dist.name}" if entry.dist else ""
    place = f"entry point {entry.name} = {entry.value}{package} in {entry.group}"
    try:
        cls = entry.load()
    except Exception as error:  # whatever the other package raises when it is imported
        message = f"{place} cannot be loaded: {type(error).__name__}: {error}; repair or uninstall that package"
        raise RecipeError(message) from None
    if not inspect.isclass(cls) or not issubclass(cls, base):
        raise RecipeError(f"{place} names no {base.__name__}; repair or uninstall that package")
    loaded: type[Any] = cls
    return loaded


def summary(cls: type[Any]) -> str:
    """First line of a class's docstring, without the full stop."""
    return (cls.__doc__ or cls.__name__).splitlines()[0].rstrip(".")
