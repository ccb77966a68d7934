"""Types and values of single options that the rooms above share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from onnxquant import clients, formats, observers, solvers, targets
from onnxquant.errors import RecipeError
from onnxquant.targets import AUTO

# Formats that have a short name by their bits; see ``bits``.
FORMAT_OF_BITS = {bits: f"int{bits}" for bits in (8, 6, 5, 4, 3, 2)}
# Endings of report files; each has its own writer.
REPORTS = (".html", ".md", ".json")


class Compute(StrEnum):
    """The arithmetic of products with encoded weights."""

    AUTO = "auto"
    FLOAT = "float"


class SearchCost(StrEnum):
    """The figure that a search under a bound on quality makes small."""

    SIZE = "size"
    LATENCY = "latency"


class ActivationType(StrEnum):
    """The element type of the codes of static activations, by numpy's name."""

    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"


class Goal(StrEnum):
    """Measures by which the best file is chosen."""

    FAST = "fast"
    SMALL = "small"
    BALANCED = "balanced"


class Effort(StrEnum):
    """The time that the search for static activations may take."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ExternalData(StrEnum):
    """Whether tensors are kept in a file beside the model."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


def seconds_of(text: str) -> float:
    """Number of seconds in a duration.

    Raises:
        RecipeError: any other text.

    >>> seconds_of("90s"), seconds_of("5min"), seconds_of("1.5h")
    (90.0, 300.0, 5400.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h)?\s*", text)
    if match is None or not float(match[1]):
        raise RecipeError(f"time is {text!r}, expected a duration such as 90s, 5min or 1h")
    return float(match[1]) * {"s": 1, "min": 60, "m": 60, "h": 3600}[match[2] or "s"]


def format_names() -> list[str]:
    """Names of all formats."""
    return list(formats.registry())


def client_names() -> list[str]:
    """Names of all clients."""
    return list(clients.clients())


def target_names() -> list[str]:
    """Names of the targets that a rule can ask for, and ``auto``."""
    return [AUTO, *targets.weight_targets()]


def solver_names() -> list[str]:
    """Names of all solvers, and ``auto``."""
    return [AUTO, *solvers.registry()]


def static_solver_names() -> list[str]:
    """Names of the solvers that may choose codes beside static activations, and ``auto``."""
    return [AUTO, *(s.name for s in solvers.solvers() if s.serves_static_activations)]


def calibration_methods() -> list[str]:
    """Names of the observers that give ranges, and ``auto``."""
    return [AUTO, *observers.ranging()]


@dataclass(frozen=True)
class Drop:
    """Largest loss of a metric, compared with the float model.

    Attributes:
        amount: loss in the metric's unit, or as a part of the float model's value
        relative: whether the amount is such a part

    >>> Drop.parse("0.5%").least(0.8)
    0.796
    >>> Drop.parse(0.01).least(0.8)
    0.79
    """

    amount: float
    relative: bool

    @classmethod
    def parse(cls, value: str | float) -> Drop:
        """A drop from ``0.5%`` (of the float model's value) or ``0.01`` (in the metric's unit).

        Raises:
            RecipeError: any other text.
        """
        text = str(value).strip()
        try:
            amount = float(text.removesuffix("%"))
        except ValueError:
            amount = math.nan
        if not 0 <= amount < math.inf:
            raise RecipeError(
                f"max_drop is {value!r}, expected a number that is not negative, or a percentage like 0.5%"
            )
        return cls(amount / 100, True) if text.endswith("%") else cls(amount, False)

    def least(self, value: float) -> float:
        """The lowest value that is allowed where the float model has ``value``."""
        return value - self.amount * (abs(value) if self.relative else 1.0)
