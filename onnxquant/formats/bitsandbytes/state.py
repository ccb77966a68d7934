"""Tensors of bitsandbytes: what its quantizers return, from encoded weights or float arrays, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import RecipeError, WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.bitsandbytes import cpu_build
from onnxquant.formats.bitsandbytes.block_table import BlockTable
from onnxquant.formats.bitsandbytes.dynamic8 import Dynamic8, signed_map
from onnxquant.formats.bitsandbytes.llm_int8 import LlmInt8
from onnxquant.formats.bitsandbytes.nf4_fp4 import FP4, NESTED_BLOCK, NF4, NestedTable
from onnxquant.formats.matrix import Matrix, chunks
from onnxquant.formats.named import make_format
from onnxquant.formats.planes import Planes
from onnxquant.numerics.arrays import Bytes

_TYPES: dict[str, type[NestedTable]] = {"nf4": NF4, "fp4": FP4}


@dataclass(frozen=True, eq=False)
class QuantState:
    """The entries of ``bitsandbytes.functional.QuantState``, in numpy.

    Attributes:
        absmax: largest magnitude of each block, float32; uint8 where ``state2`` says what the codes mean.
        shape: shape of the original array; None: that of the data.
        code: value of each code, float32.
        blocksize: weights of a block.
        quant_type: "nf4" or "fp4"; None for 8 bits.
        dtype: element type that bitsandbytes decodes to.
        offset: number that is added to nested scales.
        state2: state of the nested scales; None: they are not nested.
    """

    absmax: NDArray[Any]
    shape: tuple[int, ...] | None
    code: Matrix
    blocksize: int
    quant_type: str | None = None
    dtype: str = "float32"
    offset: np.float32 | None = None
    state2: QuantState | None = None

    @property
    def format(self) -> BlockTable:
        """The format whose codes have these values.

        Raises:
            RecipeError: no format has such blocks.
            WeightError: no format has such values, or nested scales do not fit.
        """
        if self.quant_type is None:
            form: BlockTable = Dynamic8(block_size=self.blocksize)
        elif self.quant_type in _TYPES:
            nested = self.state2 is not None and self.state2.blocksize == NESTED_BLOCK
            form = _TYPES[self.quant_type](block_size=self.blocksize, double_quant=nested)
        else:
            raise WeightError(f"quant_type {str(self.quant_type)[:60]!r}, expected nf4 or fp4")
        maps = [(self.code, form.table())]
        if self.state2 is not None:
            maps.append((self.state2.code, signed_map()))
            if not _nests(self.absmax, self.state2, self.offset):
                raise WeightError("the nested scales do not fit the scales, or their offset is no number")
        if not all(np.array_equal(np.asarray(code, np.float32), table) for code, table in maps):
            raise WeightError(f"the values of the codes are not those of {form.name}")
        return form

    @property
    def nested(self) -> bool:
        """Whether the scales are codes themselves."""
        return self.state2 is not None

    def as_dict(self) -> dict[str, Any]:
        """The entries of bitsandbytes' ``QuantState.as_dict()``, with arrays for tensors."""
        entries: dict[str, Any] = {
            "quant_type": self.quant_type, "absmax": self.absmax, "blocksize": self.blocksize, "quant_map": self.code,
            "dtype": self.dtype, "shape": self.shape,
        }  # fmt: skip
        if self.state2 is not None and self.offset is not None:
            entries |= {
                "nested_absmax": self.state2.absmax, "nested_blocksize": self.state2.blocksize,
                "nested_quant_map": self.state2.code, "nested_dtype": self.state2.dtype,
                "nested_offset": float(self.offset),
            }  # fmt: skip
        return entries

    @classmethod
    def of(cls, state: object) -> QuantState:
        """The state of one of bitsandbytes' own, of the entries of one in a checkpoint, or of one of these.

        Raises:
            WeightError: an entry is missing.
        """
        if isinstance(state, cls):
            return state
        try:
            return cls._of_dict(state) if isinstance(state, Mapping) else cls._of_object(state)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise WeightError(f"no state of bitsandbytes: {type(error).__name__}: {error}") from None

    @classmethod
    def _of_dict(cls, checkpoint: Mapping[str, Any]) -> QuantState:
        entries = {name.rsplit(".", 1)[-1]: value for name, value in checkpoint.items()}
        for name in [name for name in entries if name.startswith("bitsandbytes__")]:
            entries |= json.loads(_array(entries[name]).tobytes())
        nested = None
        if "nested_absmax" in entries:
            nested = cls(
                _array(entries["nested_absmax"]), None, _array(entries["nested_quant_map"]), entries["nested_blocksize"]
            )
        with np.errstate(over="ignore"):
            offset = np.float32(entries["nested_offset"]) if nested else None
        shape = None if entries["shape"] is None else tuple(entries["shape"])
        return cls(
            _array(entries["absmax"]), shape, _array(entries["quant_map"]), entries["blocksize"], entries["quant_type"],
            _type_name(entries["dtype"]), offset, nested,
        )  # fmt: skip

    @classmethod
    def _of_object(cls, state: Any) -> QuantState:  # noqa: ANN401 - an object of another package
        nested = None if state.state2 is None else cls._of_object(state.state2)
        return cls(
            _array(state.absmax), None if state.shape is None else tuple(state.shape), _array(state.code), state.blocksize,
            state.quant_type, _type_name(state.dtype), None if state.offset is None else np.float32(float(state.offset)),
            nested,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Int8State:
    """The statistics of ``bitsandbytes.functional.int8_vectorwise_quant``, and the outliers themselves.

    Attributes:
        scb: largest magnitude of each row, float32 [rows].
        outlier_columns: columns that hold outliers, int64; None: they were not looked for.
        outliers: values of these columns, float16 [rows, columns]; None: bitsandbytes takes them from the original.
    """

    scb: Matrix
    outlier_columns: NDArray[np.int64] | None = None
    outliers: NDArray[np.float16] | None = None


@dataclass(frozen=True, eq=False)
class BitsAndBytesTensor:
    """A tensor of bitsandbytes.

    Attributes:
        data: packed codes uint8 [n / 2, 1] of 4 bits, codes uint8 of the original shape, or an int8 matrix.
        state: statistics that decoding needs.
    """

    data: NDArray[Any]
    state: QuantState | Int8State


def to_bitsandbytes(source: Encoded | ArrayLike, format: str | None = None, **parameters: object) -> BitsAndBytesTensor:
    """The tensor that bitsandbytes has for an encoded weight, or makes of a float array.

    Args:
        source: a weight of nf4, fp4, dynamic8 or llm_int8, whose codes stay as they are; or a float array, which is quantized
            by the rules of bitsandbytes' CPU build to the byte (``cpu_build``): blocks cross rows, any length will do.
        format: format of a float array.
        parameters: its parameters: ``block_size``, ``double_quant``; ``threshold`` (0: no outliers).

    Raises:
        RecipeError: another format or parameter.
        WeightError: NaN or infinity, columns in another order, or values beyond float16 for int8.
    """
    if isinstance(source, Encoded):
        if format is not None or parameters:
            raise RecipeError("format and parameters: have no effect on a weight that is encoded already")
        return _of_encoded(source)
    if format is None:
        raise RecipeError("a float array needs a format: nf4, fp4, dynamic8 or llm_int8")
    values = np.asarray(source)
    if not values.size:
        raise WeightError(f"array of shape {list(values.shape)}, expected values")
    for _ in chunks(values.reshape(1, -1)):  # refuses NaN
        pass
    if format == LlmInt8.name:
        return _int8(values.astype(np.float32), **parameters)  # type: ignore[arg-type]
    form: Format = make_format(Format, format, parameters)  # type: ignore[type-abstract]
    if not isinstance(form, BlockTable) or form.stochastic is not None or form.permuted:
        raise RecipeError(f"format {format}: bitsandbytes rounds nf4, fp4, dynamic8 and llm_int8 to nearest alone")
    return _quantized(values.astype(np.float32), form)


def from_bitsandbytes(data: ArrayLike, state: object) -> Encoded:
    """The weight of a tensor of bitsandbytes: its codes and scales as they are.

    Args:
        data: codes, an array or a tensor: the first result of the quantizer.
        state: the state beside it: a ``QuantState`` of bitsandbytes or of this package, the entries of one in a checkpoint,
            an ``Int8State``, or SCB, the scales of int8 rows, alone.

    Returns:
        the weight. Where blocks cross rows, its matrix has a row for each block.

    Raises:
        WeightError: the state does not fit the data, or its codes are not those of a format here.
    """
    codes = _array(data)
    if codes.dtype == np.int8:
        return _from_int8(codes, state if isinstance(state, Int8State) else Int8State(_array(state).astype(np.float32)))
    if codes.dtype.itemsize != 1:
        codes = np.ascontiguousarray(codes).view(np.uint8)
    known = QuantState.of(state)
    shape = codes.shape if known.shape is None else known.shape
    form = known.format
    size = prod(shape)
    expected = -(-size // 2) if form.bits == 4 else size
    blocks = -(-size // known.blocksize)
    if codes.size != expected or known.absmax.size != blocks:
        raise WeightError(
            f"{codes.size} bytes and {known.absmax.size} scales, expected {expected} and {blocks} for shape {list(shape)} in "
            f"blocks of {known.blocksize}"
        )
    flat = codes.reshape(-1)
    if form.bits == 4:
        flat = np.stack([flat >> 4, flat & 15], axis=-1).reshape(-1)[:size]
    rows, cols = _matrix(shape, form.block_size)
    zero = int(np.flatnonzero(form.table() == 0)[0])
    planes: Planes = {"codes": np.pad(flat, (0, rows * cols - size), constant_values=zero).reshape(rows, cols)}
    return Encoded(form, rows, cols, planes | _scale_planes(known, form, (rows, cols // form.block_size)), shape)


def _matrix(shape: tuple[int, ...], block: int) -> tuple[int, int]:
    """Rows and columns: those of the array where blocks lie within rows, else a row for each block."""
    first, rest = (1, prod(shape)) if len(shape) < 2 else (shape[0], prod(shape[1:]))
    return (first, rest) if rest % block == 0 else (-(-first * rest // block), block)


def _nests(absmax: NDArray[Any], nested: QuantState, offset: np.float32 | None) -> bool:
    """Whether scales are codes that have a scale for each block of them."""
    is_size = isinstance(nested.blocksize, int) and nested.blocksize > 0
    fits = is_size and nested.absmax.size == -(-absmax.size // nested.blocksize)
    return fits and absmax.dtype == np.uint8 and offset is not None and bool(np.isfinite(offset))


def _scale_planes(state: QuantState, form: BlockTable, shape: tuple[int, int]) -> Planes:
    """The planes of the scales."""
    if state.state2 is None or state.offset is None:
        return {"scales": state.absmax.astype(np.float32).reshape(shape)}
    if isinstance(form, NestedTable) and form.double_quant:
        return {
            "scales": state.absmax.astype(np.uint8).reshape(shape),
            "nested_scales": state.state2.absmax.reshape(-1).astype(np.float32),
            "nested_offset": np.array([state.offset], np.float32),
        }
    wide = np.repeat(state.state2.absmax.astype(np.float32), state.state2.blocksize)[: state.absmax.size]
    return {"scales": (signed_map()[state.absmax] * wide + state.offset).reshape(shape)}


def _of_encoded(weight: Encoded) -> BitsAndBytesTensor:
    form, planes = weight.format, weight.planes
    if form.permuted:
        raise WeightError("columns are stored in another order, which bitsandbytes does not know")
    if isinstance(form, LlmInt8):
        columns = planes["outlier_columns"].astype(np.int64)
        state = Int8State(form.absmax(weight), columns, planes["outliers"])
        return BitsAndBytesTensor(form.to_blocks(weight), state)
    if not isinstance(form, BlockTable):
        raise RecipeError(f"format {form.name}: bitsandbytes has nf4, fp4, dynamic8 and llm_int8 alone")
    shape = weight.shape or (weight.rows, weight.cols)
    codes = planes["codes"].reshape(-1)[: prod(shape)]
    scales = planes["scales"].reshape(-1)
    if not (isinstance(form, NestedTable) and form.double_quant):
        return _tensor(form, codes, scales, shape)
    nested = cpu_build.NestedScales(scales, planes["nested_scales"], planes["nested_offset"][0])
    return _tensor(form, codes, nested, shape)


def _quantized(values: Matrix, form: BlockTable) -> BitsAndBytesTensor:
    """A float array as bitsandbytes' CPU build quantizes it."""
    flat = values.reshape(-1)
    if isinstance(form, Dynamic8):
        coded = cpu_build.quantize_blockwise(flat, form.block_size)
    else:
        coded = cpu_build.quantize_4bit(flat, form)
    nests = isinstance(form, NestedTable) and form.double_quant
    return _tensor(form, coded.codes, cpu_build.nest(coded.absmax) if nests else coded.absmax, values.shape)


def _tensor(
    form: BlockTable, codes: Bytes, scales: Matrix | cpu_build.NestedScales, shape: tuple[int, ...]
) -> BitsAndBytesTensor:
    """The tensor of flat codes and scales."""
    absmax: NDArray[Any]
    offset, nested = None, None
    if isinstance(scales, cpu_build.NestedScales):
        absmax, offset = scales.codes, scales.offset
        nested = QuantState(scales.absmax, None, signed_map(), NESTED_BLOCK)
    else:
        absmax = scales
    quant_type = form.name if form.bits == 4 else None
    stated = shape if form.bits == 4 else None
    state = QuantState(absmax, stated, form.table(), form.block_size, quant_type, "float32", offset, nested)
    if form.bits == 8:
        return BitsAndBytesTensor(codes.reshape(shape), state)
    zero = int(np.flatnonzero(form.table() == 0)[0])
    even = np.pad(codes, (0, codes.size % 2), constant_values=zero)
    return BitsAndBytesTensor((even[0::2] << np.uint8(4) | even[1::2])[:, None], state)


def _int8(values: Matrix, threshold: float = 0.0, **others: object) -> BitsAndBytesTensor:
    if others or not threshold >= 0:
        raise RecipeError(
            f"llm_int8: threshold {threshold}, {', '.join(others)}: expected a threshold of 0 or more alone"
        )
    if values.ndim != 2:
        raise WeightError(f"llm_int8: array of shape {list(values.shape)}, expected a matrix")
    matrix = cpu_build.int8_vectorwise_quant(values, threshold)
    columns = matrix.outlier_columns
    outliers = None if columns is None else values[:, columns].astype(np.float16)
    return BitsAndBytesTensor(matrix.codes, Int8State(matrix.scb, columns, outliers))


def _from_int8(codes: NDArray[np.int8], state: Int8State) -> Encoded:
    if codes.ndim != 2:
        raise WeightError(f"int8 data of shape {list(codes.shape)}, expected a matrix")
    rows, cols = codes.shape
    plain = LlmInt8().from_blocks(codes, rows, cols, state.scb)
    if state.outlier_columns is None or state.outliers is None:
        return plain
    columns = np.asarray(state.outlier_columns)
    ascending = columns.ndim == 1 and bool((np.diff(columns, prepend=-1, append=cols) > 0).all())
    if not ascending or state.outliers.shape != (rows, columns.size):
        raise WeightError(
            f"{columns.size} columns of outliers with values of shape {list(state.outliers.shape)}: expected columns of "
            f"{cols} in ascending order, and [{rows}, {columns.size}]"
        )
    planes = {
        **plain.planes,
        "outlier_columns": columns.astype(np.int32),
        "outliers": state.outliers.astype(np.float16),
    }
    planes["codes"] = planes["codes"].copy()
    planes["codes"][:, columns] = 128
    return Encoded(LlmInt8(outliers=columns.size), rows, cols, planes, (rows, cols))


def _array(values: object) -> NDArray[Any]:
    """An array, or a tensor of torch, as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _type_name(dtype: object) -> str:
    """The name of an element type of torch."""
    return str(dtype).removeprefix("torch.")
