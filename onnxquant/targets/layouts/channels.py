"""Layouts ``channels``, ``transposed`` and ``recurrent``: the planes of int8 weights beside integer activations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerTensor
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.numerics.arrays import Array
from onnxquant.targets.layouts.base import CodesLayout, tensor_spec


class ChannelsLayout(CodesLayout):
    """Signed codes in the weight's own shape, one float32 scale per output channel (or one in all)."""

    name = "channels"

    @property
    def axis(self) -> int:
        """The axis of output channels."""
        return self.view.perm[0]

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales."""
        return () if isinstance(self.form.granularity, PerTensor) else (self.rows,)

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        shape = self.scale_shape
        codes = tensor_spec(self.view.shape, np.int8)
        return {"codes": codes, "scales": tensor_spec(shape, np.float32), "zero_points": tensor_spec(shape, np.int8)}

    def pack(self, encoded: Encoded) -> dict[str, Array]:  # noqa: D102
        codes = self.view.restore(encoded.planes["codes"]) ^ np.uint8(self.form.offset)
        shape = self.scale_shape
        return {
            "codes": np.ascontiguousarray(codes).view(np.int8),
            "scales": encoded.planes["scales"].astype(np.float32).reshape(shape),
            "zero_points": np.zeros(shape, np.int8),
        }

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        codes = planes["codes"].reshape(self.view.shape).view(np.uint8) ^ np.uint8(self.form.offset)
        scales = planes["scales"].astype(self.form.scale_dtype).reshape(self.groups)
        return self.encoded({"codes": np.ascontiguousarray(self.view.matrix(codes)), "scales": scales})


class TransposedLayout(ChannelsLayout):
    """Signed codes [K, N], one float32 scale per column (or one in all)."""

    name = "transposed"

    def __init__(self, form: Format, view: View, opset: int) -> None:
        super().__init__(form, View((view.cols, view.rows), (1, 0), 1), opset)


class RecurrentLayout(ChannelsLayout):
    """Signed codes [directions, K, N] of a recurrent layer, one float32 scale per direction and column."""

    name = "recurrent"

    def __init__(self, form: Format, view: View, opset: int) -> None:
        directions, columns, contracted = view.permuted
        super().__init__(form, View((directions, contracted, columns), (0, 2, 1), 2), opset)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of the scales."""
        return self.view.permuted[:2]
