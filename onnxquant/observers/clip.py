"""Clipping of weights to the range that a calibration method chooses from their own values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, StatisticsError, nearest
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.observers import ranging, ranging_observer, registry, settings_of
from onnxquant.observers.base import ActivationGrid, RangeObserver


def clipping_methods() -> list[str]:
    """Names of the calibration methods that clip anything of a single tensor."""
    return [name for name in ranging() if registry()[name].clips]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Clip:
    """A calibration method for weights, with its number.

    Attributes:
        method: percentile, mean-std, entropy, mse ...
        value: percent of the values that stay, or standard deviations; None: the method's own.

    >>> Clip.parse("percentile=99.9")
    Clip(method='percentile', value=99.9)
    """

    method: str
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The clipping that a text such as ``percentile=99.9`` or ``entropy`` names.

        Raises:
            RecipeError: no such method, or a number that it does not take.
        """
        method, equals, number = text.partition("=")
        if method not in clipping_methods():
            raise RecipeError(f"clip {text!r}: unknown method {method!r}{nearest(method, clipping_methods())}")
        try:
            clip = cls(method, float(number) if equals else None)
            clip.observer()
        except (StatisticsError, ValueError) as error:
            reason = str(error) if isinstance(error, StatisticsError) else f"{number!r} is no number"
            raise RecipeError(f"clip {text!r}: {reason}") from None
        return clip

    def observer(self) -> RangeObserver[Any]:
        """A new observer of the method.

        Raises:
            StatisticsError: the method does not take the number.
        """
        names = settings_of(self.method)
        if self.value is None:
            return ranging_observer(self.method)
        if not names:
            raise StatisticsError(f"{self.method} takes no number")
        return ranging_observer(self.method, **{names[0]: self.value})

    def refusal(self, form: Format) -> str | None:
        """The reason why weights of a format are not clipped; None: they are."""
        return None if form.has_grid else f"{form.name} has no grid to clip for: {form.why_not_solvable}"

    def __call__(self, weight: NDArray[Any], form: Format) -> NDArray[Any]:
        """A weight, clipped to one range for all of it, which suits the codes of a format.

        Args:
            weight: floats of any shape; NaN and infinity are left to the encoder.
            form: format that the weight is to have.
        """
        observer = self.observer()
        try:
            observer.update(weight)
        except StatisticsError:
            return weight
        if not observer.count:
            return weight
        low, high = observer.range(ActivationGrid(form.bits, symmetric=not form.shifts))
        clipped: NDArray[Any] = np.clip(weight, weight.dtype.type(low), weight.dtype.type(high))
        return clipped


def clip_weight(weight: NDArray[Any], clip: str, format: str | Format) -> NDArray[Any]:
    """A weight, clipped for a format.

    Args:
        weight: floats of any shape.
        clip: calibration method and its number: ``percentile=99.9``, ``mean-std=3``, ``entropy``, ``mse``.
        format: format that the weight is to have, or its name.

    Raises:
        RecipeError: no such format, method or number, or the format has no grid.

    >>> clip_weight(np.append(np.linspace(-1, 1, 9999), 50), "percentile=99.9", "int4").max() < 1.1
    True
    """
    chosen, form = Clip.parse(clip), format_named(format) if isinstance(format, str) else format
    if refusal := chosen.refusal(form):
        raise RecipeError(f"clip {clip!r}: {refusal}")
    return chosen(np.asarray(weight), form)
