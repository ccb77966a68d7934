"""Layout ``columns``: the planes of DequantizeLinear ahead of a product."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.numerics.arrays import Array
from onnxquant.numerics.packing import pack, unpack
from onnxquant.targets.layouts.base import SIGNED, UNSIGNED, CodesLayout, padded_rows, tensor_spec


class ColumnsLayout(CodesLayout):
    """Codes [K, N] with groups along axis 0: ONNX Runtime fuses these after DequantizeLinear."""

    name = "columns"

    def __init__(self, form: Format, view: View, opset: int) -> None:
        super().__init__(form, view, opset)
        # ONNX Runtime's fusion of 2-bit codes computes garbage unless N % 4 == 0.
        self.padded_rows = self.rows + (-self.rows % 4 if form.bits == 2 else 0)

    @property
    def side_shape(self) -> tuple[int, ...]:
        """Shape of scales and zero points."""
        granularity = self.form.granularity
        if isinstance(granularity, PerBlock):
            return self.groups[1], self.padded_rows
        return (self.padded_rows,) if isinstance(granularity, PerRow) else ()

    @property
    def _flip(self) -> np.uint8:
        """Bits that signed codes have the other way round."""
        return np.uint8(0 if self.form.has_zero_points else self.form.offset)

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        form = self.form
        types = UNSIGNED if form.has_zero_points else SIGNED
        shape = (self.cols, self.padded_rows)
        out = {
            "codes": TensorSpec(shape, types[form.bits], (prod(shape) * form.bits + 7) // 8),
            "scales": tensor_spec(self.side_shape, form.scale_dtype),
        }
        if form.has_zero_points:
            size = (prod(self.side_shape) * form.bits + 7) // 8
            out["zero_points"] = TensorSpec(self.side_shape, types[form.bits], size)
        return out

    def pack(self, encoded: Encoded) -> dict[str, Array]:  # noqa: D102
        form, planes = self.form, encoded.planes
        codes = padded_rows(planes["codes"], self.padded_rows, form.offset)
        out = {
            "codes": pack((codes.T ^ self._flip).reshape(-1), form.bits),
            "scales": np.ascontiguousarray(self._by_column(planes["scales"], 1)),
        }
        if form.has_zero_points:
            out["zero_points"] = pack(self._by_column(planes["zero_points"], form.offset).reshape(-1), form.bits)
        return out

    def _by_column(self, side: Array, fill: int) -> Array:
        if isinstance(self.form.granularity, PerTensor):
            return side.reshape(())
        return padded_rows(side, self.padded_rows, fill).T.reshape(self.side_shape)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        bits = self.form.bits
        codes = unpack(planes["codes"].reshape(-1).view(np.uint8), bits, self.cols * self.padded_rows) ^ self._flip
        out = {
            "codes": codes.reshape(self.cols, self.padded_rows).T[: self.rows],
            "scales": self._by_row(planes["scales"]),
        }
        if self.form.has_zero_points:
            zero_points = unpack(planes["zero_points"].reshape(-1).view(np.uint8), bits, prod(self.side_shape))
            out["zero_points"] = self._by_row(zero_points)
        return self.encoded(out)

    def _by_row(self, side: Array) -> Array:
        if isinstance(self.form.granularity, PerTensor):
            return side.reshape(1, 1)
        return side.reshape(-1, self.padded_rows).T[: self.rows]
