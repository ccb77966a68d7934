"""Target ``demo``: products by Cast, Mul and MatMul, from a layout that turns the rows upside down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerRow
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor, TensorSpec
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.numerics.arrays import Array
from onnxquant.targets.base import Lowered, Result, Target, add_planes
from onnxquant.targets.layouts.base import CodesLayout, Layout, tensor_spec
from onnxquant.targets.node_builder import F32, GraphNodes
from onnxquant.targets.products import lower_product

BEFORE_ALL_OTHERS = 1


class UpsideDown(CodesLayout):
    """Codes [N, K] as bytes, the last row first; scales [N, 1] in the same order."""

    name = "demo_upside_down"

    def specs(self) -> dict[str, TensorSpec]:
        codes = tensor_spec((self.rows, self.cols), np.uint8)
        return {"codes": codes, "scales": tensor_spec((self.rows, 1), self.form.scale_dtype)}

    def pack(self, encoded: Encoded) -> dict[str, Array]:
        return {name: np.ascontiguousarray(encoded.planes[name][::-1]) for name in ("codes", "scales")}

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:
        return self.encoded({name: np.ascontiguousarray(plane[::-1]) for name, plane in planes.items()})


class DemoTarget(Target):
    """Standard operators, on planes of a layout of its own."""

    name = "demo"
    summary = "rows upside down, decoded by Cast, Mul and Gather"
    layout_types = (UpsideDown,)

    def rank(self, form: Format, *, folded: bool) -> int | None:
        return BEFORE_ALL_OTHERS if form.name == "demo8" and not folded else None

    def holds(self, form: Format) -> bool:
        return isinstance(form, ScaledCodes) and form.bits == 8 and isinstance(form.granularity, PerRow)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:
        if not self.holds(form) or site.tensor.data_type != F32:
            return Refusal("the demo holds codes of 8 bits with a scale per row, in float32 models")
        return None if site.served(UseKind.PRODUCT) == site.uses else Refusal("the demo has products only")

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:
        return [UpsideDown(form, site.view, opset)]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:
        layout = UpsideDown(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        nodes = GraphNodes(editor, site)
        centred = nodes.op("Sub", nodes.floats(names["codes"]), nodes.number(layout.form.offset))
        values = nodes.op("Mul", centred, nodes.floats(names["scales"]))
        order = nodes.ints(*range(site.rows - 1, -1, -1))
        weight = nodes.op("Transpose", nodes.op("Gather", values, order, axis=0), perm=[1, 0])
        nodes.insert_first()
        lowered = Lowered({layout.name: names})

        def product(nodes: GraphNodes, x: str, output: str) -> None:
            lowered.results.append(Result(UseKind.PRODUCT, x, output))
            nodes.op("MatMul", x, weight, output=output)

        for use in site.uses:
            lower_product(editor, site, use, product)
        return lowered
