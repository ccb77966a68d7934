"""Target ``qdq``: int8 weights beside ops that compute on integers, each behind a DequantizeLinear of its own.

ONNX Runtime makes one integer kernel of DequantizeLinear (activation and weight) -> op -> QuantizeLinear. The plan picks
this target for the units that static activations have placed; a rule cannot ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerBlock, PerTensor
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor, Stored
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.needs import UseKind, View
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.base import Lowered, Result, Target, add_planes
from onnxquant.targets.dense import read_decoded
from onnxquant.targets.kinds import Activations
from onnxquant.targets.layouts import Layout, stored_as
from onnxquant.targets.products import lower_product

AXIS_OPSET = 13


class Channels(Layout):
    """Signed codes in the weight's own shape, one float32 scale per output channel (or one in all)."""

    def __init__(self, form: Format, view: View) -> None:
        super().__init__(form, view.rows, view.cols)
        self.view = view

    @property
    def axis(self) -> int:
        """The axis of output channels."""
        return self.view.perm[0]

    def stored(self) -> dict[str, Stored]:  # noqa: D102
        scales = () if isinstance(self.scaled.granularity, PerTensor) else (self.rows,)
        codes = stored_as(self.view.shape, np.int8)
        return {"codes": codes, "scales": stored_as(scales, np.float32), "zero_points": stored_as(scales, np.int8)}

    def pack(self, plane: str, encoded: Encoded) -> NDArray[Any]:  # noqa: D102
        stored = self.stored()[plane]
        if plane == "codes":
            codes = self.view.restore(encoded.planes["codes"]) ^ np.uint8(self.scaled.offset)
            return np.ascontiguousarray(codes).view(np.int8)
        if plane == "zero_points":
            return np.zeros(stored.shape, np.int8)
        return encoded.planes["scales"].astype(np.float32).reshape(stored.shape)

    def unpack(self, planes: Mapping[str, NDArray[Any]]) -> Encoded:  # noqa: D102
        codes = planes["codes"].reshape(self.view.shape).view(np.uint8) ^ np.uint8(self.scaled.offset)
        scales = planes["scales"].astype(self.scaled.scale_dtype).reshape(self.groups)
        return self.encoded({"codes": np.ascontiguousarray(self.view.matrix(codes)), "scales": scales})


class Qdq(Target):
    """DequantizeLinear beside ops on integers."""

    name = "qdq"
    activations = Activations.STATIC
    summary = "int8 beside integer activations, fused to one kernel by onnxruntime"

    def holds(self, form: Format) -> bool:  # noqa: D102
        if not isinstance(form, ScaledCodes) or form.permuted or form.has_zero_points:
            return False
        return form.bits == 8 and not isinstance(form.granularity, PerBlock)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"integer kernels take int8 with one scale per channel or tensor, not {form.name} like this")
        if site.tensor.data_type != onnx.TensorProto.FLOAT:
            return Refusal(f"integer kernels give float32, the weight is {site.dtype}")
        if opset < AXIS_OPSET:
            return Refusal(f"DequantizeLinear has scales per channel from opset {AXIS_OPSET} on, the model has {opset}")
        if any(use.via is not None or use.view != site.view for use in site.uses) or site.view.split != 1:
            return Refusal("its readers see the weight in different orders")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:  # noqa: D102
        return {"channels": Channels(form, site.view)}

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = Channels(form, site.view)
        names = add_planes(editor, site, layout, encoded)
        attributes: dict[str, Any] = {} if isinstance(layout.scaled.granularity, PerTensor) else {"axis": layout.axis}
        decode = editor.node(
            site, "DequantizeLinear", [names[p] for p in ("codes", "scales", "zero_points")], **attributes
        )
        editor.first(site.graph, [decode])
        lowered = Lowered({"channels": names})
        read_decoded(editor, site.uses, decode.output[0], lowered)
        return lowered


class Dynamic(Target):
    """ONNX Runtime's op that rounds activations per call, to the range that they have then."""

    name = "dynamic"
    activations = Activations.DYNAMIC
    summary = "com.microsoft::DynamicQuantizeMatMul: activations rounded to uint8 per call"

    def holds(self, form: Format) -> bool:  # noqa: D102
        return Qdq().holds(form)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"DynamicQuantizeMatMul takes int8 with one scale per channel, not {form.name} like this")
        if site.tensor.data_type != onnx.TensorProto.FLOAT:
            return Refusal(f"DynamicQuantizeMatMul computes in float32, the weight is {site.dtype}")
        if site.served(UseKind.DENSE) or site.served(UseKind.LOOKUP) or not site.served(UseKind.PRODUCT):
            return Refusal("ConvInteger and the like take many times the time of static activations: weight only")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:  # noqa: D102
        return {"transposed": Transposed(form, site.rows, site.cols)}

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = Transposed(form, site.rows, site.cols)
        names = add_planes(editor, site, layout, encoded)
        lowered = Lowered({"transposed": names})

        def product(x: str, output: str) -> list[onnx.NodeProto]:
            lowered.results.append(Result(UseKind.PRODUCT, x, output))
            inputs = [x, names["codes"], names["scales"], names["zero_points"]]
            return [editor.node(site, "DynamicQuantizeMatMul", inputs, domain=MICROSOFT, output=output)]

        for use in site.served(UseKind.PRODUCT):
            lower_product(editor, site, use, product)
        return lowered


class Transposed(Channels):
    """Signed codes [K, N], one float32 scale per column (or one in all)."""

    def __init__(self, form: Format, rows: int, cols: int) -> None:
        super().__init__(form, View((cols, rows), (1, 0), 1))
