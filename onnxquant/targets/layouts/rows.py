"""Layout ``rows``: the planes of MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.native.packers import pack_rows
from onnxquant.numerics.arrays import Array
from onnxquant.numerics.packing import pack, unpack
from onnxquant.targets.layouts.base import CodesLayout, kernel_block, tensor_spec


class RowsLayout(CodesLayout):
    """Codes uint8 [N, blocks, block * bits / 8], zero points packed [N, ceil(blocks * bits / 8)]."""

    name = "rows"

    def __init__(self, form: Format, view: View, opset: int) -> None:
        super().__init__(form, view, opset)
        self.block = kernel_block(self.form, self.cols)
        self.blocks = -(-self.cols // self.block)

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        bits = self.form.bits
        out = {
            "codes": tensor_spec((self.rows, self.blocks, self.block * bits // 8), np.uint8),
            "scales": tensor_spec(self.groups, self.form.scale_dtype),
        }
        if self.form.has_zero_points:
            out["zero_points"] = tensor_spec((self.rows, (self.blocks * bits + 7) // 8), np.uint8)
        return out

    def pack(self, encoded: Encoded) -> dict[str, Array]:  # noqa: D102
        form, planes = self.form, encoded.planes
        codes = pack_rows(planes["codes"], form.bits, self.blocks * self.block, form.offset)
        out = {
            "codes": codes.reshape(self.rows, self.blocks, -1),
            "scales": np.ascontiguousarray(planes["scales"]),
        }
        if form.has_zero_points:
            out["zero_points"] = self._packed_zero_points(planes["zero_points"])
        return out

    def _packed_zero_points(self, values: Array) -> Array:
        return pack(np.broadcast_to(values, (self.rows, self.blocks)), self.form.bits)

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        codes = unpack(planes["codes"], self.form.bits, self.block).reshape(self.rows, -1)[:, : self.cols]
        out = {"codes": codes, "scales": planes["scales"].reshape(self.groups)}
        if self.form.has_zero_points:
            out["zero_points"] = self._unpacked_zero_points(planes["zero_points"])
        return self.encoded(out)

    def _unpacked_zero_points(self, packed: Array) -> Array:
        return unpack(packed, self.form.bits, self.blocks)[: self.groups[0], : self.groups[1]]
