"""The base class of layouts, and the element types that planes are stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import DTypeLike

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.numerics.arrays import Array

T = onnx.TensorProto
SIGNED = {8: T.INT8, 4: T.INT4, 2: T.INT2}
UNSIGNED = {8: T.UINT8, 4: T.UINT4, 2: T.UINT2}
# Scales of 8 bits that are exponents (OCP E8M0).
POWERS_OF_TWO = np.dtype(ml_dtypes.float8_e8m0fnu)
# The opset and IR version in which a code of so many bits is a tensor type.
OPSET_OF_BITS = {8: 1, 4: 21, 2: 25}
IR_OF_BITS = {8: 3, 4: 10, 2: 13}


class Layout(ABC):
    """One order of planes for one weight.

    ``specs`` gives names, shapes and types from shapes alone: the plan adds them up before a weight is encoded.

    Args:
        form: format of the weight.
        view: the weight as a matrix.
        opset: opset of the model.

    Raises:
        ValueError: the layout cannot hold the format.
    """

    name: ClassVar[str]
    """Name in files. A file names the layouts of its weights, so a name never changes its meaning."""

    def __init__(self, form: Format, view: View, opset: int) -> None:
        self.form = form
        self.view = view
        self.rows, self.cols = view.rows, view.cols

    @abstractmethod
    def specs(self) -> dict[str, TensorSpec]:
        """Shape and type of each plane's tensor."""

    @abstractmethod
    def pack(self, encoded: Encoded) -> dict[str, Array]:
        """The planes of an encoded weight in this order, by the names of ``specs``."""

    @abstractmethod
    def unpack(self, planes: Mapping[str, Array]) -> Encoded:
        """The encoded weight of packed planes."""

    @property
    def nbytes(self) -> int:
        """Size of the planes."""
        return sum(spec.nbytes for spec in self.specs().values())

    def encoded(self, planes: dict[str, Array]) -> Encoded:
        """An encoded weight of this layout's shape."""
        return Encoded(self.form, self.rows, self.cols, planes, (self.rows, self.cols))


class CodesLayout(Layout):
    """A layout for codes with scales."""

    form: ScaledCodes

    def __init__(self, form: Format, view: View, opset: int) -> None:
        if not isinstance(form, ScaledCodes):
            raise ValueError(f"layout {self.name} stores codes with scales, which {form.name} has not")
        super().__init__(form, view, opset)

    @property
    def groups(self) -> tuple[int, int]:
        """Shape of the scales as the format sees them."""
        return self.form.granularity.shape(self.rows, self.cols)


def carrier_block(cols: int) -> int:
    """The block that carries a coarser granularity through a block-wise kernel: the largest that wastes no column.

    >>> [carrier_block(k) for k in (384, 576, 100)]
    [128, 64, 32]
    """
    return next((b for b in (128, 64, 32) if cols % b == 0), 32)


def kernel_block(form: ScaledCodes, cols: int) -> int:
    """Block size that a kernel is given for rows of ``cols`` weights."""
    return form.granularity.size if isinstance(form.granularity, PerBlock) else carrier_block(cols)


def tensor_spec(shape: tuple[int, ...], dtype: DTypeLike) -> TensorSpec:
    """The spec of the tensor of an array."""
    kind = stored_type(np.dtype(dtype))
    return TensorSpec(shape, int(onnx.helper.np_dtype_to_tensor_dtype(kind)), prod(shape) * kind.itemsize)


def stored_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The element type that is written for another: powers of two as the bytes of their exponents, in any opset."""
    return np.dtype(np.uint8) if dtype == POWERS_OF_TWO else dtype


def as_stored(plane: Array) -> Array:
    """An array in the element type that is written for it."""
    return plane.view(stored_type(plane.dtype))


def from_stored(plane: Array, dtype: np.dtype[Any]) -> Array:
    """The inverse of ``as_stored``: the array in its own element type; other tensors stay as they are."""
    return plane.view(dtype) if plane.dtype == stored_type(dtype) else plane


def padded_rows(matrix: Array, rows: int, fill: int) -> Array:
    """A matrix with rows of ``fill`` added up to ``rows``."""
    if matrix.shape[0] == rows:
        return matrix
    extra = np.full((rows - matrix.shape[0], *matrix.shape[1:]), fill, matrix.dtype)
    return np.concatenate([matrix, extra], axis=0)
