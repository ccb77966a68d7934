"""Encoders, decoders and packers of the compiled library, through ctypes: the bytes of ``onnxquant.formats``, faster.

Rows are split over threads in fixed parts; planes and sums are the same for any number of threads.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import NativeLibraryError, RangeError, WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.bitsandbytes.llm_int8 import LlmInt8
from onnxquant.formats.bitsandbytes.nf4_fp4 import NestedTable, nest, unnest
from onnxquant.formats.bitsandbytes.table import BlockTable, TableCodes, _levels, _midpoints
from onnxquant.formats.floats import Floats
from onnxquant.formats.i2_s import I2_S
from onnxquant.formats.integers import Affine
from onnxquant.formats.matrix import Planes, check_finite, check_permutation, columns_by_norm
from onnxquant.native import library as native
from onnxquant.numerics.difference import Difference
from onnxquant.numerics.packing import low_bits

T = TypeVar("T")
TILE = native.TILE
_INT, _DOUBLE, _FLOAT, _TEXT, _POINTER = (
    ctypes.c_int64, ctypes.c_double, ctypes.c_float, ctypes.c_char_p, ctypes.c_void_p,
)  # fmt: skip
# Elements that one call of the library works on: enough for a call to cost nothing, few enough to share out.
_CHUNK = 1 << 19
_TYPES = {np.dtype(t): i for i, t in enumerate((np.float32, np.float16, ml_dtypes.bfloat16, np.float64))}
_NAMES = [
    "q4_0", "q5_0", "q8_0", "q4_1", "q5_1", "q8_k", "q4_k", "q5_k", "q6_k", "tq2_0", "i2_s", "nf4", "fp4", "dynamic8",
    "f8_e4m3", "f8_e5m2", "f16", "bf16", "llm_int8", "int8", "int6", "int5", "int4", "int3", "int2",
]  # fmt: skip


def supports(form: Format) -> bool:
    """Whether the library is there, and encodes and decodes this format.

    >>> from onnxquant.formats import format_named
    >>> supports(format_named("q4_0"))
    True
    """
    return form.name in _NAMES and type(form).__module__.startswith("onnxquant.formats.") and _there()


@cache
def _there() -> bool:
    try:
        return bool(native.isas() and _function("encode"))
    except (NativeLibraryError, AttributeError):
        return False


def can_decode(encoded: Encoded) -> bool:
    """Whether the library decodes this: a format that it knows, planes of the types and shapes that the format declares."""
    return supports(encoded.format) and _misfit(encoded) is None


def encode(
    form: Format,
    weight: NDArray[Any],
    permutation: ArrayLike | None = None,
    threads: int | None = None,
    isa: str = "",
) -> tuple[Encoded, Difference]:
    """As ``Format.encode``, and how the decoded weight differs from the weight in float32.

    Args:
        form: a format that ``supports`` knows.
        weight: matrix [rows, cols]; any float type, any strides.
        permutation: as of ``Format.encode``.
        threads: at most so many; None: as many as there are CPUs.
        isa: exactly this instruction set; "": the best.

    Raises:
        WeightError: as of ``Format.encode``.
    """
    rows, cols = weight.shape
    form.check_shape(rows, cols)
    columns = None
    if permutation is not None:
        columns = check_permutation(permutation, cols)
    elif form.permuted:
        columns = columns_by_norm(weight)
    call = _Call(rows, cols, _readable(weight), columns, threads, isa)
    if weight.size:
        encoded, difference = _encode(form, call)
    else:
        encoded, difference = form._empty(rows, cols), Difference()
    if columns is None:
        return encoded, difference
    form = encoded.format.with_(permuted=True)
    return replace(encoded, format=form, planes={**encoded.planes, "permutation": columns}), difference


def decode(encoded: Encoded, threads: int | None = None, isa: str = "") -> NDArray[np.float32]:
    """The float32 matrix [rows, cols] that an encoded weight stands for, columns in their original order.

    Raises:
        WeightError: the permutation is not one.
    """
    out = np.empty((encoded.rows, encoded.cols), np.float32)
    if out.size:
        call = _Call(encoded.rows, encoded.cols, None, _permutation(encoded), threads, isa)
        call.run("decode", encoded.format, _plain(encoded), decoded=out)
    return out


def measure(encoded: Encoded, weight: NDArray[Any], threads: int | None = None, isa: str = "") -> Difference:
    """How an encoded weight differs from this one.

    Raises:
        WeightError: NaN or infinity in the weight, or the permutation is not one.
    """
    if weight.shape != (encoded.rows, encoded.cols):
        return Difference(shape_mismatch=f"{[encoded.rows, encoded.cols]} instead of {list(weight.shape)}")
    if not weight.size:
        return Difference()
    call = _Call(encoded.rows, encoded.cols, _readable(weight), _permutation(encoded), threads, isa)
    return call.difference(call.run("measure", encoded.format, _plain(encoded)), encoded)


def _encode(form: Format, call: _Call) -> tuple[Encoded, Difference]:
    rows, cols = call.rows, call.cols
    shared = None
    kept = None
    if isinstance(form, I2_S):
        shared = call.survey().ternary_scale(rows * cols)
    elif isinstance(form, Affine) and form.group is None:
        found = call.survey()
        shared = np.array([found.low, found.high], np.float32)
    elif isinstance(form, LlmInt8):
        peaks = np.zeros(cols, np.float32)
        call.survey(peaks)
        with np.errstate(over="ignore"):
            kept = form.kept_columns(peaks.astype(np.float16))
        form = form.with_(outliers=len(kept))
    nested = isinstance(form, NestedTable) and form.double_quant
    plain = form.with_(double_quant=False) if nested else form
    planes = {name: np.empty(p.shape, p.dtype) for name, p in plain._planes(rows, cols).items()}
    if kept is not None:
        planes["outlier_columns"][:] = kept
    encoded = Encoded(plain, rows, cols, planes, (rows, cols))
    difference = call.difference(call.run("encode", plain, planes, shared=shared), encoded)
    if nested:
        encoded = replace(encoded, format=form, planes={**planes, **nest(planes["scales"])})
        with np.errstate(over="ignore"):
            check_finite(form.name, {"scales": unnest(encoded.planes)})
        difference = call.difference(call.run("measure", form, _plain(encoded)), encoded)
    return encoded, difference


def pack_tiles(
    codes: NDArray[np.uint8], bits: int, padded_cols: int, pad: int, threads: int | None = None, isa: str = ""
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Codes [N, K], one per byte, as the tile planes ``codes`` and, for 3, 5 and 6 bits, ``high``.

    Raises:
        NativeLibraryError: no plane has such codes or columns.
    """
    low = low_bits(bits)
    tiles = -(-len(codes) // TILE)
    out = np.empty((tiles, padded_cols * low // 32, TILE, 4), np.uint8)
    high = np.empty((tiles, -(-padded_cols * (bits - low) // 32), TILE, 4), np.uint8) if bits > low else None
    _pack("tiles", codes, bits, padded_cols, pad, out, high, threads, isa)
    return out, high


def pack_rows(
    codes: NDArray[np.uint8], bits: int, padded_cols: int, pad: int, threads: int | None = None, isa: str = ""
) -> NDArray[np.uint8]:
    """Codes [N, K], one per byte, as [N, padded_cols * bits / 8] with the first code in the lowest bits.

    Raises:
        NativeLibraryError: ``bits`` is not 2, 4 or 8, or rows are no whole bytes.
    """
    out = np.empty((len(codes), padded_cols * bits // 8), np.uint8)
    _pack("rows", codes, bits, padded_cols, pad, out, None, threads, isa)
    return out


def interleave(
    matrix: NDArray[Any], padded_cols: int | None = None, threads: int | None = None, isa: str = ""
) -> NDArray[Any]:
    """A matrix [N, n] of 8, 16 or 32-bit elements as [tiles, n, 16], zeros in the padding."""
    width = matrix.shape[1] if padded_cols is None else padded_cols
    out = np.empty((-(-len(matrix) // TILE), width, TILE), matrix.dtype)
    _pack("lanes", matrix, 8 * matrix.dtype.itemsize, width, 0, out, None, threads, isa)
    return out


class _Source(ctypes.Structure):
    _fields_ = (
        ("data", _POINTER), ("columns", _POINTER), ("type", _INT), ("row_stride", _INT), ("col_stride", _INT),
    )  # fmt: skip


class _Survey(ctypes.Structure):
    _fields_ = (
        ("sum", _DOUBLE), ("low", _FLOAT), ("high", _FLOAT), ("smallest", _FLOAT), ("bad_row", _INT), ("bad_col", _INT),
    )  # fmt: skip

    def ternary_scale(self, count: int) -> NDArray[np.float32]:
        """The scale of i2_s: the one magnitude of a ternary weight, else the mean magnitude."""
        largest = max(abs(self.low), abs(self.high))
        ternary = math.isinf(self.smallest) or self.smallest == largest
        return np.array([largest if ternary else np.float32(self.sum / count)], np.float32)


class _SurveyJob(ctypes.Structure):
    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("source", _Source), ("rows", _INT), ("cols", _INT), ("survey", _POINTER),
        ("column_peaks", _POINTER),
    )  # fmt: skip


class _Statistics(ctypes.Structure):
    _fields_ = (
        ("error", _DOUBLE), ("bias", _DOUBLE), ("reference", _DOUBLE), ("got", _DOUBLE), ("worst", _DOUBLE),
        ("unequal", _INT), ("bad_row", _INT), ("bad_col", _INT),
    )  # fmt: skip


class _EncodeJob(ctypes.Structure):
    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("format", _TEXT), ("action", _TEXT), ("source", _Source), ("rows", _INT),
        ("cols", _INT), ("first_row", _INT), ("group", _INT), ("shared", _POINTER), ("zero_point", _INT),
        ("table", _POINTER), ("levels", _POINTER), ("level_codes", _POINTER), ("bounds", _POINTER),
        ("starts", _POINTER), ("level_count", _INT), ("stochastic", _INT), ("seed", ctypes.c_uint64),
        ("outlier_columns", _POINTER), ("outlier_count", _INT), ("codes", _POINTER), ("scales", _POINTER),
        ("seconds", _POINTER), ("subscales", _POINTER), ("subminima", _POINTER), ("decoded", _POINTER),
        ("statistics", _POINTER),
    )  # fmt: skip


class _Call:
    """A weight, and how the library is to walk over it."""

    def __init__(
        self,
        rows: int,
        cols: int,
        weight: NDArray[Any] | None,
        columns: NDArray[np.int32] | None,
        threads: int | None,
        isa: str,
    ) -> None:
        self.rows, self.cols, self.weight, self.threads, self.isa = rows, cols, weight, threads, isa.encode()
        self.columns = None if columns is None else native.in_order(columns)

    def _source(self, first: int) -> _Source:
        columns = None if self.columns is None else _address(self.columns)
        if self.weight is None:
            return _Source(None, columns, 0, 0, 0)
        size = self.weight.dtype.itemsize
        strides = (s // size for s in self.weight.strides)
        return _Source(_address(self.weight[first:]), columns, _TYPES[self.weight.dtype], *strides)

    def survey(self, peaks: NDArray[np.float32] | None = None) -> _Survey:
        """What must be known of the whole weight; ``peaks`` is raised to each column's largest magnitude."""

        def work(part: range) -> tuple[_Survey, NDArray[np.float32] | None]:
            out, own = _Survey(), None if peaks is None else np.zeros(self.cols, np.float32)
            job = _SurveyJob(
                0, self.isa, self._source(part.start), len(part), self.cols, ctypes.addressof(out),
                None if own is None else _address(own),
            )  # fmt: skip
            _run("survey", job)
            return out, own

        parts = _parts(self.rows, self.cols)
        found = _in_parallel(work, parts, self.threads)
        for part, (one, own) in zip(parts, found, strict=True):
            self._check_finite(part, one)
            if peaks is not None and own is not None:
                np.maximum(peaks, own, out=peaks)
        each = [one for one, _ in found]
        return _Survey(
            sum(s.sum for s in each), min(s.low for s in each), max(s.high for s in each), min(s.smallest for s in each)
        )

    def run(
        self,
        action: str,
        form: Format,
        planes: Planes,
        *,
        shared: NDArray[np.float32] | None = None,
        decoded: NDArray[np.float32] | None = None,
    ) -> list[_Statistics]:
        """Encode, measure or decode each part; the statistics of each."""
        common = _settings(form, self.cols)
        tensor = getattr(form, "group", 0) is None
        if tensor and shared is None:
            shared = np.zeros(2, np.float32)  # says that there is one scale, which is in the plane
        kept = planes.get("outlier_columns")
        sides = {
            "codes": planes.get("codes", planes.get("values")),
            "scales": planes.get("scales"),
            "seconds": planes.get("minima", planes.get("zero_points", planes.get("outliers"))),
            "subscales": planes.get("subscales"),
            "subminima": planes.get("subminima"),
        }

        def work(part: range) -> _Statistics:
            out = _Statistics()
            job = _EncodeJob(0, self.isa, form.name.encode(), action.encode(), self._source(part.start))
            job.rows, job.cols, job.first_row = len(part), self.cols, part.start
            for name, value in common.items():
                setattr(job, name, _address(value) if isinstance(value, np.ndarray) else value)
            # One scale for the tensor is written by the first part only, into memory of their own by the others.
            own = []
            for name, plane in sides.items():
                if plane is None:
                    continue
                if tensor and name != "codes":
                    own.append(plane if part.start == 0 or action != "encode" else plane.copy())
                    setattr(job, name, _address(own[-1]))
                else:
                    setattr(job, name, _address(plane[part.start :]))
            if kept is not None:
                job.outlier_columns, job.outlier_count = _address(kept), len(kept)
            if shared is not None:
                job.shared = _address(shared)
            if decoded is not None:
                job.decoded = _address(decoded[part.start :])
            job.statistics = ctypes.addressof(out)
            _run("encode", job)
            return out

        parts = _parts(self.rows, self.cols)
        found = _in_parallel(work, parts, self.threads)
        for part, one in zip(parts, found, strict=True):
            self._check_finite(part, one)
        return found

    def _check_finite(self, part: range, found: _Survey | _Statistics) -> None:
        if found.bad_row < 0 or self.weight is None:
            return
        row, col = part.start + found.bad_row, found.bad_col
        with np.errstate(over="ignore"):
            value = np.float32(self.weight[row, col])
        raise WeightError(f"holds {value} at row {row}, column {col}; expected finite values")

    def difference(self, parts: list[_Statistics], encoded: Encoded) -> Difference:
        """The parts' sums, added in their order.

        Raises:
            RangeError: the weight is beyond what the format's scales can express.
        """
        error, bias, reference, got = (
            sum(getattr(p, name) for p in parts) for name in ("error", "bias", "reference", "got")
        )
        worst = max(p.worst for p in parts)
        if not math.isfinite(got):
            return self._out_of_range(encoded)
        return Difference(
            self.rows * self.cols, error, bias, reference, got, (got + reference - error) / 2, worst,
            sum(p.unequal for p in parts),
        )  # fmt: skip

    def _out_of_range(self, encoded: Encoded) -> Difference:
        """Something decodes to infinity or NaN: the slow way says what."""
        form = encoded.format
        assert self.weight is not None
        check_finite(form.name, encoded.planes)
        with np.errstate(over="ignore"):
            weight = self.weight.astype(np.float32)
        if isinstance(form, Floats):
            raise RangeError(
                f"format {form.name}: holds {np.abs(weight).max():.4g}, the largest {form.dtype} is {form.largest}"
            )
        out = Difference()
        order = slice(None) if self.columns is None else self.columns
        out.add(weight[:, order], decode(encoded, self.threads))
        return out


def _settings(form: Format, cols: int) -> dict[str, Any]:
    """Fields of a job that the format says; arrays are kept alive by whoever holds them."""
    group = getattr(form, "group", 0)
    out: dict[str, Any] = {"group": 256 if group is None or isinstance(form, Floats) else group}
    if isinstance(form, Affine) and form.has_zero_points:
        out["zero_point"] = 2 if form.float_zero_points else 1
    if isinstance(form, TableCodes):
        out["table"] = _values(type(form))
    if isinstance(form, BlockTable):
        stochastic = form.stochastic is not None
        levels, codes, bounds, starts = _search(type(form), stochastic)
        out |= {"levels": levels, "level_codes": codes, "bounds": bounds, "starts": starts, "level_count": len(levels)}
        out |= {"stochastic": int(stochastic), "seed": form.stochastic or 0}
    return out


@cache
def _values(form: type[TableCodes]) -> NDArray[np.float32]:
    table = np.zeros(256, np.float32)
    table[: len(form.table())] = form.table()
    return table


@cache
def _search(form: type[TableCodes], stochastic: bool) -> tuple[NDArray[Any], ...]:
    """Levels, their codes, the bounds that are searched, and how many bounds lie below all floats of equal upper bits."""
    levels, codes = _levels(form)
    bounds = levels if stochastic else _midpoints(form)
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    ends = np.stack([upper.view(np.float32), (upper | 0xFFFF).view(np.float32)])
    starts = np.searchsorted(bounds, ends.min(axis=0), side="left")
    within = np.searchsorted(bounds, ends.max(axis=0), side="right") - starts
    assert (within <= 1).all(), f"{form.name}: two bounds share their upper bits"
    padded = np.append(bounds, np.float32(np.inf)).astype(np.float32)
    return levels, codes, padded, starts.astype(np.uint8)


def _plain(encoded: Encoded) -> Planes:
    """Planes as the library takes them: contiguous, scales of double quantization decoded."""
    if reason := _misfit(encoded):
        raise WeightError(f"format {encoded.format.name}: {reason}")
    planes = {name: native.in_order(plane) for name, plane in encoded.planes.items()}
    if isinstance(encoded.format, NestedTable) and encoded.format.double_quant:
        planes["scales"] = unnest(planes)
    return planes


def _misfit(encoded: Encoded) -> str | None:
    """Which plane is not as the format declares it."""
    for name, plane in encoded.format._planes(encoded.rows, encoded.cols).items():
        found = encoded.planes.get(name)
        if found is None:
            return f"no plane {name}"
        if found.shape != plane.shape or found.dtype != plane.dtype:
            return f"plane {name} is {found.dtype} {list(found.shape)}, expected {plane.dtype} {list(plane.shape)}"
    return None


def _permutation(encoded: Encoded) -> NDArray[np.int32] | None:
    order = encoded.planes.get("permutation")
    return None if order is None else check_permutation(order, encoded.cols)


def _readable(weight: NDArray[Any]) -> NDArray[Any]:
    """The weight itself, or a copy where its type or strides are not ones that the library reads."""
    if weight.dtype not in _TYPES:
        with np.errstate(over="ignore"):
            return weight.astype(np.float32)
    if any(stride % weight.dtype.itemsize for stride in weight.strides) or not weight.flags.aligned:
        return weight.copy()
    return weight


class _PackJob(ctypes.Structure):
    _fields_ = (
        ("size", _INT), ("isa", _TEXT), ("layout", _TEXT), ("source", _POINTER), ("rows", _INT), ("cols", _INT),
        ("stride", _INT), ("padded", _INT), ("bits", _INT), ("pad", _INT), ("low", _POINTER), ("high", _POINTER),
    )  # fmt: skip


def _pack(
    layout: str,
    codes: NDArray[Any],
    bits: int,
    padded: int,
    pad: int,
    low: NDArray[Any],
    high: NDArray[Any] | None,
    threads: int | None,
    isa: str,
) -> None:
    rows, cols = codes.shape
    codes = native.in_order(codes)
    unit = 1 if layout == "rows" else TILE

    def work(part: range) -> None:
        planes = [None if p is None or not p.size else _address(p[part.start // unit :]) for p in (low, high)]
        job = _PackJob(
            0, isa.encode(), layout.encode(), _address(codes[part.start :]), len(part), cols,
            codes.strides[0], padded, bits, pad, *planes,
        )  # fmt: skip
        _run("pack_codes", job)

    _in_parallel(work, _parts(rows, padded), threads)


def _run(function: str, job: ctypes.Structure) -> None:
    job.size = ctypes.sizeof(job)
    if _function(function)(ctypes.byref(job)):
        raise NativeLibraryError(native._last_error())


@cache
def _function(name: str) -> Any:
    function = getattr(native._library(), f"onnxquant_{name}")
    function.restype, function.argtypes = ctypes.c_int, [ctypes.c_void_p]
    return function


def _address(array: NDArray[Any]) -> int:
    return array.ctypes.data


def _parts(rows: int, cols: int) -> list[range]:
    """Rows in chunks of whole tiles, the same for any number of threads."""
    step = max(1, _CHUNK // (TILE * max(cols, 1))) * TILE
    return [range(first, min(first + step, rows)) for first in range(0, rows, step)]


def _in_parallel(work: Callable[[range], T], parts: Iterable[range], threads: int | None) -> list[T]:
    """Results in the order of the parts."""
    parts = list(parts)
    count = min(threads or os.cpu_count() or 1, len(parts))
    if count <= 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, parts))
