"""Layout ``dense``: the planes of a weight that is decoded when a session is created."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.numerics.arrays import Array, in_c_order
from onnxquant.numerics.packing import pack, unpack
from onnxquant.targets.layouts.base import OPSET_OF_BITS, SIGNED, UNSIGNED, Layout, T, tensor_spec


class DenseLayout(Layout):
    """Floats or codes in the weight's own shape, for a decode by Cast and Mul that folds when a session is created.

    Blocks lie along the contracted axis, so block-wise codes keep the matrix form [rows, blocks, block] instead, or
    [rows, cols] where the last block is short: padding is never stored. Codes below 8 bits are INT4 or INT2 tensors
    where the opset has them, else bytes with the first code lowest.
    """

    name = "dense"
    form: Floats | ScaledCodes

    def __init__(self, form: Format, view: View, opset: int) -> None:
        if not isinstance(form, Floats | ScaledCodes):
            raise ValueError(f"layout dense stores floats or codes with scales, {form.name} has neither")
        super().__init__(form, view, opset)
        self.packed = opset < OPSET_OF_BITS.get(form.bits, 1)

    @property
    def ragged(self) -> bool:
        """Whether the last block of a row is short."""
        granularity = self.form.granularity
        return isinstance(granularity, PerBlock) and self.cols % granularity.size != 0

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of the codes, one element per weight."""
        granularity = self.form.granularity
        if not isinstance(granularity, PerBlock):
            return self.view.shape
        if self.ragged:
            return self.rows, self.cols
        return (*granularity.shape(self.rows, self.cols), granularity.size)

    @property
    def side_shape(self) -> tuple[int, ...]:
        """Shape of scales and zero points: it broadcasts against the codes."""
        granularity = self.form.granularity
        if isinstance(granularity, PerBlock):
            return (*granularity.shape(self.rows, self.cols), 1)
        if isinstance(granularity, PerTensor):
            return ()
        return self.view.row_vector(np.empty((self.rows, 1), np.bool_)).shape

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        form = self.form
        if isinstance(form, Floats):
            return {"values": tensor_spec(self.view.shape, form.dtype)}
        size = (prod(self.code_shape) * form.bits + 7) // 8
        if self.packed:
            codes = TensorSpec((size,), T.UINT8, size)
        else:
            types = UNSIGNED if form.has_zero_points else SIGNED
            codes = TensorSpec(self.code_shape, types[form.bits], size)
        out = {"codes": codes, "scales": tensor_spec(self.side_shape, form.scale_dtype)}
        if form.has_zero_points:
            out["zero_points"] = tensor_spec(self.side_shape, np.uint8)
        return out

    def pack(self, encoded: Encoded) -> dict[str, Array]:  # noqa: D102
        form, planes = self.form, encoded.planes
        if isinstance(form, Floats):
            return {"values": in_c_order(self.view.restore(planes["values"]))}
        codes = planes["codes"]
        codes = codes if isinstance(form.granularity, PerBlock) else self.view.restore(codes)
        out = {
            "codes": pack((codes ^ self._flip(form)).reshape(-1), form.bits),
            "scales": np.ascontiguousarray(self._broadcast(planes["scales"])),
        }
        if form.has_zero_points:
            out["zero_points"] = np.ascontiguousarray(self._broadcast(planes["zero_points"]))
        return out

    def _flip(self, form: ScaledCodes) -> np.uint8:
        """Bits that signed codes have the other way round."""
        return np.uint8(0 if self.packed or form.has_zero_points else form.offset)

    def _broadcast(self, values: Array) -> Array:
        if isinstance(self.form.granularity, PerBlock):
            return values[..., None]
        return values.reshape(()) if isinstance(self.form.granularity, PerTensor) else self.view.row_vector(values)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        form = self.form
        if isinstance(form, Floats):
            return self.encoded({"values": self.view.matrix(planes["values"].reshape(self.view.shape))})
        packed = planes["codes"].reshape(-1).view(np.uint8)
        codes = (unpack(packed, form.bits, prod(self.code_shape)) ^ self._flip(form)).reshape(self.code_shape)
        in_blocks = isinstance(form.granularity, PerBlock)
        out = {
            "codes": codes.reshape(self.rows, self.cols) if in_blocks else self.view.matrix(codes),
            "scales": self._matrix(form, planes["scales"]),
        }
        if form.has_zero_points:
            out["zero_points"] = self._matrix(form, planes["zero_points"])
        return self.encoded(out)

    def _matrix(self, form: ScaledCodes, side: Array) -> Array:
        if isinstance(form.granularity, PerRow):
            return side.reshape(self.side_shape).transpose(self.view.perm).reshape(self.rows, 1)
        return side.reshape(form.granularity.shape(self.rows, self.cols))
