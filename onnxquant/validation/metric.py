"""The user's own measure of a model: accuracy, F1, word error rate; a function of a session, more is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from onnxquant import runtime
from onnxquant.calibration.feeds.python import is_reference, resolve
from onnxquant.errors import FeedError, RecipeError

Function = Callable[[runtime.Session], float]


class Metric:
    """A function of a session that says how good a model is.

    Args:
        function: takes an ``onnxruntime.InferenceSession`` and gives a number; or ``module:function``.

    Raises:
        RecipeError: it is no function.

    >>> Metric(lambda session: len(session.get_inputs())).name
    '<lambda>'
    """

    def __init__(self, function: str | Function) -> None:
        self.name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
        self._function: Any = self._resolved(function) if isinstance(function, str) else function
        if not callable(self._function):
            raise RecipeError(f"metric {self.name}: is no function; expected one of an onnxruntime.InferenceSession")

    def _resolved(self, name: str) -> Any:
        if not is_reference(name):
            raise RecipeError(f"metric {name!r}: expected module:function")
        try:
            return resolve(name)
        except FeedError as error:
            raise RecipeError(f"metric {error}") from None

    def __call__(self, session: runtime.Session) -> float:
        """What it says of a model.

        Raises:
            RecipeError: it fails, or gives no finite number.
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
