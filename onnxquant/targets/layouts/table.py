"""Layout ``table``: the planes of lookups in standard operators."""

from __future__ import annotations

import numpy as np

from onnxquant.graph.model_editor import TensorSpec
from onnxquant.numerics.arrays import Array
from onnxquant.targets.layouts.base import tensor_spec
from onnxquant.targets.layouts.rows import RowsLayout


class TableLayout(RowsLayout):
    """The planes of ``rows``, but with one byte per zero point, so that rows of them can be gathered."""

    name = "table"

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        out = super().specs()
        return out | {"zero_points": tensor_spec(self.groups, np.uint8)} if self.form.has_zero_points else out

    def _packed_zero_points(self, values: Array) -> Array:
        return np.ascontiguousarray(values)

    def _unpacked_zero_points(self, packed: Array) -> Array:
        return packed.reshape(self.groups)
