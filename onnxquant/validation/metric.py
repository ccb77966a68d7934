"""The user's own metric of a model, such as accuracy, F1 or word error rate: a function of a session; more is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from onnxquant import runtime
from onnxquant.calibration.feeds.python import is_reference, resolve
from onnxquant.errors import FeedError, RecipeError

Function = Callable[[runtime.Session], float]


@dataclass(frozen=True)
class MetricResult:
    """A metric of two models.

    Attributes:
        name: name of the metric.
        original, quantized: its values.
        least: lowest value that the quantized model may have.
    """

    name: str
    original: float
    quantized: float
    least: float

    @property
    def passed(self) -> bool:
        """Whether the quantized model is good enough."""
        return self.quantized >= self.least


class Metric:
    """A function of a session that says how good a model is.

    Args:
        function: a function of an ``onnxruntime.InferenceSession`` that returns a number; or ``module:function``.

    Raises:
        RecipeError: it is no function.

    >>> Metric(lambda session: len(session.get_inputs())).name
    '<lambda>'
    """

    def __init__(self, function: str | Function) -> None:
        self.name = function if isinstance(function, str) else str(getattr(function, "__name__", function))
        resolved = _resolved(function) if isinstance(function, str) else function
        if not callable(resolved):
            raise RecipeError(f"metric {self.name}: is no function; expected one of an onnxruntime.InferenceSession")
        self._function = cast(Function, resolved)

    def __call__(self, session: runtime.Session) -> float:
        """The metric of one model.

        Raises:
            RecipeError: the function fails, or returns no finite number.
        """
        try:
            value = float(self._function(session))
        except Exception as error:
            raise RecipeError(
                f"metric {self.name}: fails with {type(error).__name__}: {error}; it is called with an "
                f"onnxruntime.InferenceSession and gives a number"
            ) from error
        if not math.isfinite(value):
            raise RecipeError(f"metric {self.name}: gives {value}, expected a finite number")
        return value


def _resolved(name: str) -> object:
    if not is_reference(name):
        raise RecipeError(f"metric {name!r}: expected module:function")
    try:
        return resolve(name)
    except FeedError as error:
        raise RecipeError(f"metric {error}") from None
