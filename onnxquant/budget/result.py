"""The result of a search for formats: the choices that were tried, the best ones by size, and the costs of each weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxquant.json_data import INLINE, OPTIONAL, JsonKey, JsonValue


@dataclass(frozen=True)
class Measured:
    """SQNR of the outputs of a choice that was run; None: there is no noise, or nothing else."""

    sqnr_db: float | None = field(metadata=JsonKey("measured_sqnr_db").metadata)


@dataclass(frozen=True)
class ChoiceFigures:
    """Figures of one choice of formats for all weights.

    Attributes:
        bits_per_weight: bits over all constant weights.
        predicted_sqnr_db: SQNR of the outputs by the sum of the weights' noises; None: no noise, or nothing else.
        products_ms: milliseconds of the products; None where they were not timed.
        measured: SQNR of the outputs when the choice was run; None where it was not.
    """

    bits_per_weight: float
    predicted_sqnr_db: float | None
    products_ms: float | None = field(default=None, metadata=OPTIONAL)
    measured: Measured | None = field(default=None, metadata=INLINE)


@dataclass(frozen=True)
class FormatCost:
    """Cost of one weight in one format.

    Attributes:
        format: name of the format, or of the float type.
        bytes: bytes that it takes.
        noise: error power of the outputs over their power.
    """

    format: str
    bytes: int
    noise: float


@dataclass(frozen=True)
class WeightCosts:
    """Costs of one weight in every format, and the format that was chosen for it."""

    name: str
    chosen: str
    candidates: tuple[FormatCost, ...]


@dataclass(frozen=True)
class FormatSearchResult:
    """Result of a search for formats under a bound.

    Attributes:
        asked: the bounds, by option.
        formats: formats that were considered.
        chosen: the best choice.
        tried: choices that were run.
        front: best choices of several sizes, by prediction.
        sensitivity: costs of each weight, the most sensitive first.
    """

    asked: Mapping[str, JsonValue]
    formats: tuple[str, ...]
    chosen: ChoiceFigures
    tried: tuple[ChoiceFigures, ...]
    front: tuple[ChoiceFigures, ...]
    sensitivity: tuple[WeightCosts, ...]
