"""Ranges of activations that follow the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onnxquant.errors import RecipeError, StatisticsError
from onnxquant.observers.codes import Codes, QuantizationParameters


class MovingMinMaxObserver(nn.Module):
    """Follows the range of a tensor: moving averages of its smallest and its largest value.

    ``low += momentum * (values.min() - low)`` on each call in training mode, the same for high. The first call begins them.
    Values pass as they are; those of a call that are not all finite change nothing.

    Args:
        momentum: weight of a call, above 0 to 1; torch's observers call it the averaging constant, and begin at 0.01.
        codes: the integers that the range is for; None: uint8.

    Attributes:
        is_frozen: whether the range stays as it is.

    Raises:
        RecipeError: the momentum is out of bounds.

    >>> observer = MovingMinMaxObserver(momentum=0.5)
    >>> for high in (1.0, 3.0):
    ...     _ = observer(torch.tensor([-1.0, high]))
    >>> observer.range, observer.quantization.zero_point
    ((-1.0, 2.0), 85)
    """

    low: Tensor
    high: Tensor

    def __init__(self, momentum: float = 0.01, codes: Codes | None = None) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise RecipeError(f"momentum is {momentum}, expected a number above 0, at most 1")
        self.momentum, self.codes, self.is_frozen = momentum, codes or Codes(), False
        self.register_buffer("low", torch.tensor(torch.nan))
        self.register_buffer("high", torch.tensor(torch.nan))

    @torch.no_grad()
    def forward(self, values: Tensor) -> Tensor:
        """The values as they are."""
        if self.training and not self.is_frozen and values.numel():
            low, high = values.aminmax()
            if bool(torch.isfinite(high - low)):
                self.begin(low, high) if bool(self.low.isnan()) else self._move(low, high)
        return values

    @torch.no_grad()
    def begin(self, low: Tensor | float, high: Tensor | float) -> None:
        """Begin with a range."""
        self.low.fill_(low)
        self.high.fill_(high)

    def _move(self, low: Tensor, high: Tensor) -> None:
        self.low.lerp_(low.to(self.low), self.momentum)
        self.high.lerp_(high.to(self.high), self.momentum)

    @property
    def range(self) -> tuple[float, float]:
        """The range.

        Raises:
            StatisticsError: there were no values in training mode.
        """
        if bool(self.low.isnan()):
            raise StatisticsError("a range that follows the data has not been given any; expected a call in training mode")
        return float(self.low), float(self.high)

    @property
    def quantization(self) -> QuantizationParameters:
        """The scale and the zero point of the range, by the formula of static activations."""
        return QuantizationParameters.of(*self.range, self.codes)
