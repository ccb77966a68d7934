"""Layout ``bnb4``: the planes of MatMulBnb4, which are those of bitsandbytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.bitsandbytes.nf4_fp4 import NestedTable
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.numerics.arrays import Array
from onnxquant.targets.layouts.base import Layout, tensor_spec


class Bnb4Layout(Layout):
    """Codes uint8 [N * K / 2] with the even weight in the high nibble, largest magnitudes float32 [N * K / block]."""

    name = "bnb4"
    form: NestedTable

    def __init__(self, form: Format, view: View, opset: int) -> None:
        if not holds_bnb4(form):
            raise ValueError(f"layout {self.name} stores nf4 and fp4 with float32 scales, not {form.name} like this")
        super().__init__(form, view, opset)

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        elements = self.rows * self.cols
        return {
            "codes": tensor_spec((elements // 2,), np.uint8),
            "scales": tensor_spec((elements // self.form.block_size,), np.float32),
        }

    def pack(self, encoded: Encoded) -> dict[str, Array]:  # noqa: D102
        return {
            "codes": np.ascontiguousarray(self.form.to_blocks(encoded)),
            "scales": np.ascontiguousarray(self.form.absmax(encoded)),
        }

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        return self.form.from_blocks(planes["codes"], self.rows, self.cols, planes["scales"])


def holds_bnb4(form: Format) -> bool:
    """Whether MatMulBnb4 holds a format: nf4 or fp4 with float32 scales, columns in their own order."""
    return isinstance(form, NestedTable) and not form.double_quant and not form.permuted
