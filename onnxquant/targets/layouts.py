"""How the planes of an encoded weight lie in a file, one class per order, each with its way back.

A layout knows arrays, not nodes: the targets build nodes on top of it. ``stored`` says names, shapes and types from
shapes alone (that is what the plan adds up); ``pack`` gives the bytes; ``unpack`` reads them again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import Stored
from onnxquant.graph.needs import View
from onnxquant.native.packers import pack_rows
from onnxquant.numerics.packing import pack, unpack

Array = NDArray[Any]
T = onnx.TensorProto
_SIGNED = {8: T.INT8, 4: T.INT4, 2: T.INT2}
_UNSIGNED = {8: T.UINT8, 4: T.UINT4, 2: T.UINT2}
# Scales of 8 bits that are exponents (OCP E8M0).
POWERS_OF_TWO = np.dtype(ml_dtypes.float8_e8m0fnu)
# The opset and IR version in which a code of so many bits is a tensor type.
OPSET_OF_BITS = {8: 1, 4: 21, 2: 25}
IR_OF_BITS = {8: 3, 4: 10, 2: 13}


def carrier_block(cols: int) -> int:
    """The block that carries a coarser granularity through a block-wise kernel: the largest that wastes no column.

    >>> [carrier_block(k) for k in (384, 576, 100)]
    [128, 64, 32]
    """
    return next((b for b in (128, 64, 32) if cols % b == 0), 32)


def block_of(form: ScaledCodes, cols: int) -> int:
    """Block size that a kernel is told for rows of ``cols`` weights."""
    return form.granularity.size if isinstance(form.granularity, PerBlock) else carrier_block(cols)


class Layout(ABC):
    """One order of planes for one weight."""

    def __init__(self, form: Format, rows: int, cols: int) -> None:
        self.form = form
        self.rows = rows
        self.cols = cols

    @property
    def scaled(self) -> ScaledCodes:
        """The format as one with scales (every layout but float16's)."""
        return cast(ScaledCodes, self.form)

    @property
    def groups(self) -> tuple[int, int]:
        """Shape of the scales as the format sees them."""
        return self.scaled.granularity.shape(self.rows, self.cols)

    @abstractmethod
    def stored(self) -> dict[str, Stored]:
        """Each plane as a tensor."""

    @abstractmethod
    def pack(self, plane: str, encoded: Encoded) -> Array:
        """Bytes of one plane, in the order of this layout."""

    @abstractmethod
    def unpack(self, planes: Mapping[str, Array]) -> Encoded:
        """The encoded weight that packed planes hold."""

    def encoded(self, planes: dict[str, Array]) -> Encoded:
        """An Encoded of this layout's shape."""
        return Encoded(self.form, self.rows, self.cols, planes, (self.rows, self.cols))


def _elem(dtype: np.dtype[Any] | type) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def stored_as(shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> Stored:
    """An array of this type as a tensor of the model."""
    kind = stored_type(np.dtype(dtype))
    return Stored(shape, _elem(kind), prod(shape) * kind.itemsize)


def stored_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The element type that is written for another: powers of two as the bytes of their exponents, in any opset."""
    return np.dtype(np.uint8) if dtype == POWERS_OF_TWO else dtype


def as_stored(plane: Array) -> Array:
    """An array in the element type that is written for it."""
    return plane.view(stored_type(plane.dtype))


def from_stored(plane: Array, dtype: np.dtype[Any]) -> Array:
    """An array of an element type from the tensor that was written for it; a tensor of another type stays as it is."""
    return plane.view(dtype) if plane.dtype == stored_type(dtype) else plane


class Dense(Layout):
    """Codes in the weight's own shape, for a decode by Cast and Mul that folds when a session is created.

    Blocks lie along the contracted axis, so block-wise codes keep the matrix form [rows, blocks, block] instead, or
    [rows, cols] where the last block is short: padding is never stored. Codes below 8 bits are INT4 or INT2 tensors
    where the opset has them, else bytes with the first code lowest.
    """

    def __init__(self, form: Format, view: View, opset: int) -> None:
        super().__init__(form, view.rows, view.cols)
        self.view = view
        self.packed = opset < OPSET_OF_BITS.get(form.bits, 1)

    @property
    def ragged(self) -> bool:
        """Whether the last block of a row is short."""
        granularity = self.scaled.granularity
        return isinstance(granularity, PerBlock) and self.cols % granularity.size != 0

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the codes, one element per weight."""
        granularity = self.scaled.granularity
        if isinstance(granularity, PerBlock):
            return (self.rows, self.cols) if self.ragged else (self.rows, self.groups[1], granularity.size)
        return self.view.shape

    @property
    def side_shape(self) -> tuple[int, ...]:
        """Shape of scales and zero points: it broadcasts against the codes."""
        granularity = self.scaled.granularity
        if isinstance(granularity, PerBlock):
            return (*self.groups, 1)
        if isinstance(granularity, PerTensor):
            return ()
        return self.view.row_vector(np.empty((self.rows, 1), np.bool_)).shape

    def stored(self) -> dict[str, Stored]:  # noqa: D102
        if isinstance(self.form, Floats):
            return {"values": stored_as(self.view.shape, self.form.dtype)}
        form, count = self.scaled, prod(self.code_shape)
        size = (count * form.bits + 7) // 8
        if self.packed:
            codes = Stored((size,), T.UINT8, size)
        else:
            kinds = _UNSIGNED if form.has_zero_points else _SIGNED
            codes = Stored(self.code_shape, kinds[form.bits], size)
        out = {"codes": codes, "scales": stored_as(self.side_shape, form.scale_dtype)}
        if form.has_zero_points:
            out["zero_points"] = stored_as(self.side_shape, np.uint8)
        return out

    def pack(self, plane: str, encoded: Encoded) -> Array:  # noqa: D102
        values = encoded.planes[plane]
        if plane == "values":
            return np.ascontiguousarray(self.view.restore(values))
        if plane != "codes":
            return np.ascontiguousarray(self._side(values))
        form = self.scaled
        flip = form.offset if not self.packed and not form.has_zero_points else 0
        ordered = values if isinstance(form.granularity, PerBlock) else self.view.restore(values)
        return pack((ordered ^ np.uint8(flip)).reshape(-1), form.bits)

    def _side(self, values: Array) -> Array:
        granularity = self.scaled.granularity
        if isinstance(granularity, PerBlock):
            return values[..., None]
        return values.reshape(()) if isinstance(granularity, PerTensor) else self.view.row_vector(values)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        if isinstance(self.form, Floats):
            return self.encoded({"values": self.view.matrix(planes["values"].reshape(self.view.shape))})
        form = self.scaled
        flip = form.offset if not self.packed and not form.has_zero_points else 0
        flat = unpack(planes["codes"].reshape(-1).view(np.uint8), form.bits, prod(self.code_shape)) ^ np.uint8(flip)
        codes = flat.reshape(self.code_shape)
        in_blocks = isinstance(form.granularity, PerBlock)
        out = {"codes": codes.reshape(self.rows, self.cols) if in_blocks else self.view.matrix(codes)}
        for name in ("scales", "zero_points"):
            if name in planes:
                side = planes[name]
                per_row = isinstance(form.granularity, PerRow)
                out[name] = self._rows_of(side) if per_row else side.reshape(self.groups)
        return self.encoded(out)

    def _rows_of(self, side: Array) -> Array:
        return side.reshape(self.side_shape).transpose(self.view.perm).reshape(self.rows, 1)


class Columns(Layout):
    """Codes [K, N] with groups along axis 0: what ONNX Runtime fuses after DequantizeLinear."""

    def __init__(self, form: Format, rows: int, cols: int) -> None:
        super().__init__(form, rows, cols)
        # ONNX Runtime's fusion of 2-bit codes computes garbage unless N % 4 == 0.
        self.padded_rows = rows + (-rows % 4 if form.bits == 2 else 0)

    @property
    def side_shape(self) -> tuple[int, ...]:
        """Shape of scales and zero points."""
        granularity = self.scaled.granularity
        if isinstance(granularity, PerBlock):
            return self.groups[1], self.padded_rows
        return (self.padded_rows,) if isinstance(granularity, PerRow) else ()

    def stored(self) -> dict[str, Stored]:  # noqa: D102
        form = self.scaled
        kinds = _UNSIGNED if form.has_zero_points else _SIGNED
        shape = (self.cols, self.padded_rows)
        out = {
            "codes": Stored(shape, kinds[form.bits], (prod(shape) * form.bits + 7) // 8),
            "scales": stored_as(self.side_shape, form.scale_dtype),
        }
        if form.has_zero_points:
            size = (prod(self.side_shape) * form.bits + 7) // 8
            out["zero_points"] = Stored(self.side_shape, kinds[form.bits], size)
        return out

    def pack(self, plane: str, encoded: Encoded) -> Array:  # noqa: D102
        form, values = self.scaled, encoded.planes[plane]
        if plane == "codes":
            flip = 0 if form.has_zero_points else form.offset
            padded = padded_rows(values, self.padded_rows, form.offset)
            return pack((padded.T ^ np.uint8(flip)).reshape(-1), form.bits)
        fill = form.offset if plane == "zero_points" else 1
        if isinstance(form.granularity, PerTensor):
            side = values.reshape(())
        else:
            side = padded_rows(values, self.padded_rows, fill).T.reshape(self.side_shape)
        if plane == "zero_points":
            return pack(side.reshape(-1), form.bits)
        return np.ascontiguousarray(side)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        form, count = self.scaled, self.cols * self.padded_rows
        flip = 0 if form.has_zero_points else form.offset
        flat = unpack(planes["codes"].reshape(-1).view(np.uint8), form.bits, count) ^ np.uint8(flip)
        out = {
            "codes": flat.reshape(self.cols, self.padded_rows).T[: self.rows],
            "scales": self._side(planes["scales"]),
        }
        if form.has_zero_points:
            zero = unpack(planes["zero_points"].reshape(-1).view(np.uint8), form.bits, prod(self.side_shape))
            out["zero_points"] = self._side(zero)
        return self.encoded(out)

    def _side(self, side: Array) -> Array:
        if isinstance(self.scaled.granularity, PerTensor):
            return side.reshape(1, 1)
        return side.reshape(-1, self.padded_rows).T[: self.rows]


class Rows(Layout):
    """MatMulNBits' own: codes uint8 [N, blocks, block * bits / 8], zero points packed [N, ceil(blocks * bits / 8)]."""

    def __init__(self, form: Format, rows: int, cols: int) -> None:
        super().__init__(form, rows, cols)
        self.block = block_of(self.scaled, cols)
        self.blocks = -(-cols // self.block)

    def stored(self) -> dict[str, Stored]:  # noqa: D102
        form = self.scaled
        out = {
            "codes": stored_as((self.rows, self.blocks, self.block * form.bits // 8), np.uint8),
            "scales": stored_as(self.groups, form.scale_dtype),
        }
        if form.has_zero_points:
            out["zero_points"] = stored_as((self.rows, (self.blocks * form.bits + 7) // 8), np.uint8)
        return out

    def pack(self, plane: str, encoded: Encoded) -> Array:  # noqa: D102
        form, values = self.scaled, encoded.planes[plane]
        if plane == "codes":
            packed = pack_rows(values, form.bits, self.blocks * self.block, form.offset)
            return packed.reshape(self.rows, self.blocks, -1)
        if plane == "zero_points":
            return pack(np.broadcast_to(values, (self.rows, self.blocks)), form.bits)
        return np.ascontiguousarray(values)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        form = self.scaled
        codes = unpack(planes["codes"], form.bits, self.block).reshape(self.rows, -1)[:, : self.cols]
        out = {"codes": codes, "scales": planes["scales"].reshape(self.groups)}
        if "zero_points" in planes:
            zero = unpack(planes["zero_points"], form.bits, self.blocks)
            out["zero_points"] = zero[: self.groups[0], : self.groups[1]]
        return self.encoded(out)


class Table(Rows):
    """Rows for lookups in standard ops: as Rows, but one byte per zero point so that rows of them can be gathered."""

    def stored(self) -> dict[str, Stored]:  # noqa: D102
        out = super().stored()
        if "zero_points" in out:
            out["zero_points"] = stored_as(self.groups, np.uint8)
        return out

    def pack(self, plane: str, encoded: Encoded) -> Array:  # noqa: D102
        if plane == "zero_points":
            return np.ascontiguousarray(encoded.planes[plane])
        return super().pack(plane, encoded)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        encoded = super().unpack({k: v for k, v in planes.items() if k != "zero_points"})
        if "zero_points" in planes:
            encoded.planes["zero_points"] = planes["zero_points"].reshape(self.groups)
        return encoded


def padded_rows(matrix: Array, rows: int, fill: int) -> Array:
    """A matrix with rows of ``fill`` added up to ``rows``."""
    if matrix.shape[0] == rows:
        return matrix
    extra = np.full((rows - matrix.shape[0], *matrix.shape[1:]), fill, matrix.dtype)
    return np.concatenate([matrix, extra], axis=0)
