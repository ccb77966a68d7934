"""Structures that the encoders and packers of the compiled library take, and the way they are run."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxquant.native import library
from onnxquant.numerics.rows import row_ranges

_INT, _DOUBLE, _FLOAT, _TEXT, _POINTER = (
    ctypes.c_int64, ctypes.c_double, ctypes.c_float, ctypes.c_char_p, ctypes.c_void_p,
)  # fmt: skip
# Element types of weights, as the library numbers them.
_TYPES = {np.dtype(t): i for i, t in enumerate((np.float32, np.float16, ml_dtypes.bfloat16, np.float64))}


@dataclass(frozen=True)
class Execution:
    """The way a job is run. Planes and sums depend on none of it but ``part_bytes``, and planes not on that.

    Attributes:
        threads: largest number of threads; None: as many as there are CPUs.
        isa: name of the instruction set; "": the best one.
        part_bytes: bytes of float32 that one call works on: enough for a call to cost nothing, few enough to share out.
    """

    threads: int | None = None
    isa: str = ""
    part_bytes: int = 2 << 20

    def parts(self, rows: int, cols: int) -> list[slice]:
        """Rows in parts of whole tiles, the same for any number of threads."""
        return list(row_ranges(rows, cols, self.part_bytes, library.TILE))


class SourceStructure(ctypes.Structure):
    """A weight in memory."""

    _fields_ = (
        ("data", _POINTER), ("columns", _POINTER), ("type", _INT), ("row_stride", _INT), ("col_stride", _INT),
    )  # fmt: skip


class SurveyStructure(ctypes.Structure):
    """Numbers of some rows."""

    _fields_ = (
        ("sum", _DOUBLE), ("low", _FLOAT), ("high", _FLOAT), ("smallest", _FLOAT), ("bad_row", _INT), ("bad_col", _INT),
    )  # fmt: skip


class SurveyJob(ctypes.Structure):
    """A survey of some rows."""

    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("source", SourceStructure), ("rows", _INT), ("cols", _INT),
        ("survey", _POINTER), ("column_peaks", _POINTER),
    )  # fmt: skip


class ErrorSums(ctypes.Structure):
    """Sums over the errors of some rows."""

    _fields_ = (
        ("error", _DOUBLE), ("bias", _DOUBLE), ("reference", _DOUBLE), ("actual", _DOUBLE), ("worst", _DOUBLE),
        ("unequal", _INT), ("bad_row", _INT), ("bad_col", _INT),
    )  # fmt: skip


class EncodeJob(ctypes.Structure):
    """Some rows to encode, to decode or to measure."""

    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("format", _TEXT), ("action", _TEXT), ("source", SourceStructure),
        ("rows", _INT), ("cols", _INT), ("first_row", _INT), ("group", _INT), ("shared", _POINTER),
        ("zero_point", _INT), ("table", _POINTER), ("levels", _POINTER), ("level_codes", _POINTER),
        ("bounds", _POINTER), ("starts", _POINTER), ("level_count", _INT), ("stochastic", _INT),
        ("seed", ctypes.c_uint64), ("outlier_columns", _POINTER), ("outlier_count", _INT), ("codes", _POINTER),
        ("scales", _POINTER), ("seconds", _POINTER), ("subscales", _POINTER), ("subminima", _POINTER),
        ("decoded", _POINTER), ("statistics", _POINTER),
    )  # fmt: skip


class PackJob(ctypes.Structure):
    """Some rows of codes to pack."""

    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("layout", _TEXT), ("source", _POINTER), ("rows", _INT), ("cols", _INT),
        ("stride", _INT), ("padded", _INT), ("bits", _INT), ("pad", _INT), ("low", _POINTER), ("high", _POINTER),
    )  # fmt: skip


def run(function: str, job: ctypes.Structure) -> None:
    """Let the library do a job.

    Raises:
        NativeLibraryError: the library's message.
    """
    job.size = ctypes.sizeof(job)
    library.call(function, ctypes.byref(job))


def address(array: NDArray[Any]) -> int:
    """Address of an array's first element."""
    return array.ctypes.data


def readable(weight: NDArray[Any]) -> NDArray[Any]:
    """The weight itself, or a copy where its type or strides are not ones that the library reads."""
    if weight.dtype not in _TYPES:
        with np.errstate(over="ignore"):
            return weight.astype(np.float32)
    if any(stride % weight.dtype.itemsize for stride in weight.strides) or not weight.flags.aligned:
        return weight.copy()
    return weight


def source(weight: NDArray[Any] | None, columns: NDArray[np.int32] | None, first: int) -> SourceStructure:
    """A weight from a row on, its columns in an order; without a weight only the order."""
    order = None if columns is None else address(columns)
    if weight is None:
        return SourceStructure(None, order, 0, 0, 0)
    size = weight.dtype.itemsize
    strides = (stride // size for stride in weight.strides)
    return SourceStructure(address(weight[first:]), order, _TYPES[weight.dtype], *strides)
