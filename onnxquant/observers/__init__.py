"""Observers: statistics of one tensor, and the calibration methods that choose its range from them.

A module here with an ``Observer`` subclass is all it takes to add one; packages outside register through the entry point
group ``onnxquant.observers``. It may import runtime and every room below; passes and the rooms above it may import it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from onnxquant.errors import StatisticsError, nearest
from onnxquant.observers.base import Accumulator, ActivationGrid, Observer, RangeObserver
from onnxquant.observers.codes import Codes, QuantizationParameters
from onnxquant.registry import classes

__all__ = [
    "Accumulator",
    "ActivationGrid",
    "Codes",
    "Observer",
    "QuantizationParameters",
    "RangeObserver",
    "make",
    "observer_named",
    "ranging",
    "ranging_observer",
    "registry",
    "settings_of",
]


@cache
def registry() -> dict[str, type[Observer[Any]]]:
    """Observer classes by name."""
    return classes(sys.modules[__name__], Observer, "onnxquant.observers", trial=lambda method: method.accumulator.kind)


def ranging() -> list[str]:
    """Names of the observers that choose ranges: the calibration methods."""
    return [name for name, cls in registry().items() if issubclass(cls, RangeObserver)]


def observer_named(name: str) -> type[Observer[Any]]:
    """An observer's class.

    Raises:
        StatisticsError: no such observer.
    """
    if name not in registry():
        raise StatisticsError(f"unknown observer {name!r}{nearest(name, list(registry()))}")
    return registry()[name]


def ranging_observer(method: str, **settings: float) -> RangeObserver[Any]:
    """A new observer of a tensor, which chooses its range: ``update`` it with arrays, ``merge`` it with others.

    Args:
        method: a calibration method: minmax, percentile, entropy, mse, mean-std, moving-average ...
        settings: settings of the method: ``percentile`` (in percent) of percentile, ``k`` of mean-std.

    Raises:
        StatisticsError: no such method, or it has no such setting.

    >>> import numpy as np
    >>> observer = ranging_observer("percentile", percentile=99.9)
    >>> observer.update(np.linspace(-1, 1, 1001, dtype=np.float32))
    >>> observer.parameters(bits=8, symmetric=True).zero_point
    0
    """
    if method not in ranging():
        raise StatisticsError(f"unknown calibration method {method!r}{nearest(method, ranging())}")
    cls = registry()[method]
    known = settings_of(method)
    if unknown := [name for name in settings if name not in known]:
        hint = nearest(unknown[0], known) if known else "; it has no settings"
        raise StatisticsError(f"{method}: unknown setting {unknown[0]!r}{hint}")
    observer: RangeObserver[Any] = cls(None, **settings)  # type: ignore[assignment]
    return observer


def settings_of(method: str) -> list[str]:
    """Names of the settings of a calibration method: the keywords of its class."""
    parameters = inspect.signature(observer_named(method)).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def make(names: Iterable[str]) -> dict[str, Observer[Any]]:
    """New observers by name; those that read the same statistic share it.

    Args:
        names: names of observers; ``absmean:1`` is absmean of channels on axis 1, ``gram:1`` gram of rows along it.

    Raises:
        StatisticsError: no such observer, or an axis that is no number.

    >>> observers = make(["mse", "percentile"])
    >>> observers["mse"].accumulated is observers["percentile"].accumulated
    True
    """
    shared: dict[str, Accumulator] = {}
    return {name: join(name, shared) for name in dict.fromkeys(names)}


def join(name: str, shared: dict[str, Accumulator]) -> Observer[Any]:
    """An observer over the accumulator of its kind in ``shared``; a new one is added there."""
    cls = observer_named(name.partition(":")[0])
    kind = accumulator_key(name)
    if kind not in shared:
        shared[kind] = cls.accumulator(*_axis(name))
    return cls(shared[kind])


def accumulator_key(name: str) -> str:
    """The key of an observer's accumulator among those of a tensor: its kind, and the axis.

    >>> accumulator_key("entropy"), accumulator_key("absmean:1")
    ('histogram', 'absmean:1')
    """
    base, colon, axis = name.partition(":")
    return str(observer_named(base).accumulator.kind) + colon + axis


def _axis(name: str) -> list[int]:
    """The axis in an observer's name, as in ``absmean:1``; empty where it has none."""
    base, colon, axis = name.partition(":")
    if not colon:
        return []
    if "axis" not in inspect.signature(observer_named(base).accumulator).parameters:
        raise StatisticsError(f"observer {name!r}: {base} takes no axis")
    try:
        return [int(axis)]
    except ValueError:
        raise StatisticsError(f"observer {name!r}: the axis {axis!r} is no whole number") from None
