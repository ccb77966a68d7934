"""The record of a plan's integer activations: it is part of the file's metadata and of reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxquant.json_data import OPTIONAL, JsonKey, JsonValue, from_json
from onnxquant.targets.kinds import Activations

_TYPE = JsonKey("type").metadata


@dataclass(frozen=True)
class TensorCodes:
    """Range and codes of one activation.

    Attributes:
        low, high: lowest and highest value that codes can stand for.
        scale: step between two codes.
        zero_point: code of zero.
    """

    low: float
    high: float
    scale: float
    zero_point: int


@dataclass(frozen=True)
class SampleUse:
    """Numbers of samples that a search worked with.

    Attributes:
        calibrated: samples that ranges come from.
        judged: samples that candidates are compared on.
        apart: whether nothing that is compared on a sample was made from its source.
        folds: number of folds of the samples, each judged by what the others make; None: those that judge are others.
    """

    calibrated: int
    judged: int
    apart: bool
    folds: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class StaticRecord:
    """Activations that have codes of fixed ranges.

    Attributes:
        code_type: element type of the codes.
        symmetric: whether zero lies in the middle of the codes.
        method: calibration method that chose the ranges.
        tensors: codes of each activation.
        integer_kernels: number of ops that compute on integers.
        left_in_float: ops that compute in float, with the reason.
        excluded: those of them that compute in float for accuracy; None: there are none.
        balanced: number of tensors whose channels were balanced.
        biases_corrected: number of biases that make up for the mean error of their op.
        tried: score in decibels of each method that was tried.
        variants: score in decibels of each equal function that was tried.
        samples: use of the samples.
        skipped: ways to quantize that the search had no time for; None: it tried all.
        solver: solver of the weights' codes; None: rounded to nearest.
        not_solved: weights that the solver could not take.
        rescaled: weights that calibration changed before they were encoded.
    """

    kind: Literal[Activations.STATIC] = field(default=Activations.STATIC, init=False)
    code_type: str = field(metadata=_TYPE)
    symmetric: bool
    method: str = ""
    tensors: Mapping[str, TensorCodes] = field(default_factory=dict)
    integer_kernels: int = 0
    left_in_float: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    balanced: int = 0
    biases_corrected: int = 0
    tried: Mapping[str, float] = field(default_factory=dict)
    variants: Mapping[str, float] = field(default_factory=dict)
    samples: SampleUse | None = field(default=None, metadata=OPTIONAL)
    skipped: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    solver: str | None = field(default=None, metadata=OPTIONAL)
    not_solved: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    rescaled: tuple[str, ...] = ()


@dataclass(frozen=True)
class DynamicRecord:
    """Activations that the ops which read them round on every call.

    Attributes:
        integer_kernels: number of ops that compute on integers.
        rescaled: weights that calibration changed before they were encoded.
    """

    kind: Literal[Activations.DYNAMIC] = field(default=Activations.DYNAMIC, init=False)
    code_type: str = field(default="uint8", metadata=_TYPE)
    symmetric: bool = False
    integer_kernels: int = 0
    rescaled: tuple[str, ...] = ()


ActivationRecord = StaticRecord | DynamicRecord


def read_activations(data: JsonValue) -> ActivationRecord | None:
    """The record in JSON data; None where it is empty: activations are floats.

    Raises:
        ValueError: it is no such record.
    """
    return from_json(ActivationRecord, data) if data != {} else None  # type: ignore[arg-type]
