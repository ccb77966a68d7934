"""Plug-ins: classes of a kind in the modules of our packages, and of other packages; and packages that may be called."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from types import ModuleType
from typing import Any

from onnxquant.errors import RecipeError

_REMEDY = "repair or uninstall that package"
# Lists that get the reasons why plug-ins are left out; empty: a broken plug-in is an error.
_left_out: list[list[str]] = []


def classes(
    package: ModuleType, base: type[Any], group: str, trial: Callable[[type[Any]], object] | None = None
) -> dict[str, type[Any]]:
    """Concrete subclasses of a base by their ``name``, sorted by it; a class without a name is a base itself.

    Args:
        package: package of ours whose modules are searched
        base: base class of all of them
        group: group of entry points, each of which names a class of another package
        trial: function that uses a class of another package as its room does; what it raises is the package's fault

    Raises:
        RecipeError: two classes have the same name, or an entry point cannot be loaded or names no such class.
    """
    by_name: dict[str, type[Any]] = {}
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for cls in filter(inspect.isclass, vars(importlib.import_module(module.name)).values()):
            if issubclass(cls, base) and not inspect.isabstract(cls) and hasattr(cls, "name"):
                other = by_name.setdefault(cls.name, cls)
                if other is not cls:
                    places = " and ".join(sorted(map(_path, (cls, other))))
                    raise RecipeError(f"{group}: {places} are both called {cls.name!r}")
    for entry in _entries(group):
        with _broken_is_left_out():
            cls = _loaded(entry, base, trial)
            other = by_name.setdefault(cls.name, cls)
            if other is not cls:
                raise RecipeError(f"{_place(entry)} is called {cls.name!r}, as {_path(other)} is; {_REMEDY}")
    return dict(sorted(by_name.items()))


@contextmanager
def broken_left_out() -> Iterator[list[str]]:
    """A context in which broken plug-ins are left out instead of being errors; it gives the list of the reasons."""
    reasons: list[str] = []
    _left_out.append(reasons)
    try:
        yield reasons
    finally:
        _left_out.remove(reasons)


@contextmanager
def _broken_is_left_out() -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        if not _left_out:
            raise
        _left_out[-1].append(str(error))


def _entries(group: str) -> list[EntryPoint]:
    entries: list[EntryPoint] = []
    with _broken_is_left_out():
        try:
            entries.extend(entry_points(group=group))
        except Exception as error:  # one package whose file cannot be parsed stops the search through all
            package = next((d.name for d in distributions() if not _has_readable_entries(d)), "a package")
            raise RecipeError(f"entry points of {package} cannot be read: {_in_one_line(error)}; {_REMEDY}") from None
    return entries


def _has_readable_entries(package: Distribution) -> bool:
    try:
        return package.entry_points is not None
    except Exception:  # as above
        return False


def _place(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name}" if entry.dist else ""
    return f"entry point {entry.name} = {entry.value}{package} in {entry.group}"


def _path(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _loaded(entry: EntryPoint, base: type[Any], trial: Callable[[type[Any]], object] | None) -> type[Any]:
    """The class that an entry point of another package names."""
    place = _place(entry)
    try:
        cls = entry.load()
    except (Exception, SystemExit) as error:  # whatever the other package raises when it is imported
        raise RecipeError(f"{place} cannot be loaded: {_in_one_line(error)}; {_REMEDY}") from None
    if not inspect.isclass(cls) or not issubclass(cls, base):
        raise RecipeError(f"{place} names no {base.__name__}; {_REMEDY}")
    loaded: type[Any] = cls
    if methods := sorted(getattr(loaded, "__abstractmethods__", ())):
        raise RecipeError(f"{place} names a {base.__name__} without {', '.join(methods)}; {_REMEDY}")
    if not isinstance(getattr(loaded, "name", None), str):
        raise RecipeError(f"{place} names a {base.__name__} whose name is no text; {_REMEDY}")
    try:
        if trial:
            trial(loaded)
    except Exception as error:  # whatever their class raises when it is used
        raise RecipeError(f"{place} cannot be used: {_in_one_line(error)}; {_REMEDY}") from None
    return loaded


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def summary(cls: type[Any]) -> str:
    """First line of a class's docstring, without the full stop."""
    return (cls.__doc__ or cls.__name__).splitlines()[0].rstrip(".")
