"""Target ``ort``: ONNX Runtime's own block-wise operators (domain com.microsoft).

MatMulNBits with an explicit accuracy_level (unset, 8 and 2 bits run fifty times slower) and GatherBlockQuantized with
explicit zero points. Both take the weight as it lies on disk; loading is fastest of all targets. Weights that neither can
consume are decoded ahead in standard operators, as on target onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.base import Lowered, Result, Target, add_planes, holds_codes
from onnxquant.targets.dense import lower_dense
from onnxquant.targets.layouts.base import Layout
from onnxquant.targets.layouts.dense import DenseLayout
from onnxquant.targets.layouts.rows import RowsLayout
from onnxquant.targets.node_builder import F16, F32, GraphNodes
from onnxquant.targets.products import lower_lookup, lower_product

# Activations of 8 bits with one scale per block: the fast path of MLAS for every code width.
ACCURACY_LEVEL = 4


class Ort(Target):
    """ONNX Runtime's contributed operators."""

    name = "ort"
    summary = "MatMulNBits and GatherBlockQuantized of onnxruntime >= 1.23; loads fastest"
    takes_float16 = True
    layout_types = (RowsLayout, DenseLayout)

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First where ONNX Runtime's own ops hold a format exactly."""
        if folded or isinstance(form, Floats):
            return None
        return 20 if form.foreign else 10

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_codes(form)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            other = "onnx" if isinstance(form, Floats) and not form.permuted else "custom"
            return Refusal(f"onnxruntime has no op that takes {form.name} weights", f"target {other} holds them")
        if not site.has_kernel:
            return Refusal(f"com.microsoft has no weight-only op for {site.role}", "target onnx decodes it at load")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        rows = RowsLayout(form, site.view, opset)
        return [rows, DenseLayout(form, site.view, opset)] if site.served(UseKind.DENSE) else [rows]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = RowsLayout(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        weight = _Blockwise(editor, site, layout, names)
        for use in site.served(UseKind.PRODUCT):
            lower_product(editor, site, use, weight.product)
        for use in site.served(UseKind.LOOKUP):
            lower_lookup(editor, site, use, weight.lookup)
        lowered = Lowered({layout.name: names}, weight.results)
        if dense := site.served(UseKind.DENSE):
            lowered.add(lower_dense(editor, site, DenseLayout(form, site.view, editor.opset), encoded, dense))
        return lowered


class _Blockwise:
    """The block-wise operators on one weight."""

    def __init__(self, editor: ModelEditor, site: Site, layout: RowsLayout, names: Mapping[str, str]) -> None:
        self.editor, self.site, self.layout, self.names = editor, site, layout, names
        self.results: list[Result] = []
        self.in_half = site.tensor.data_type == F16
        nodes = GraphNodes(editor, site)
        scales = names["scales"]
        if layout.specs()["scales"].elem_type != F32:
            # It folds when a session is created, so that scales are stored in 16 bits.
            scales = nodes.floats(scales)
        self.scales = self._expanded(nodes, scales, (layout.rows, layout.blocks), layout.groups)
        nodes.insert_first()

    def product(self, nodes: GraphNodes, x: str, output: str) -> None:
        """Add MatMulNBits, between casts when the model computes in float16."""
        self.results.append(Result(UseKind.PRODUCT, x, output))
        layout = self.layout
        inputs = [nodes.floats(x) if self.in_half else x, self.names["codes"], self.scales]
        if "zero_points" in self.names:
            inputs.append(self.names["zero_points"])
        product = nodes.op(
            "MatMulNBits", *inputs, domain=MICROSOFT, output="" if self.in_half else output, K=layout.cols,
            N=layout.rows, bits=layout.form.bits, block_size=layout.block, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip
        if self.in_half:
            nodes.op("Cast", product, output=output, to=F16)

    def lookup(self, nodes: GraphNodes, indices: str, output: str) -> None:
        """Add GatherBlockQuantized of the same codes, seen as two axes."""
        self.results.append(Result(UseKind.LOOKUP, indices, output))
        layout = self.layout
        first = GraphNodes(self.editor, self.site)
        table = first.op("Reshape", self.names["codes"], first.ints(layout.rows, -1))
        zero_points = self._zero_points(first)
        first.insert_first()
        is_padded = layout.blocks * layout.block != layout.cols
        values = nodes.op(
            "GatherBlockQuantized", table, indices, self.scales, zero_points, domain=MICROSOFT,
            output="" if is_padded or self.in_half else output, bits=layout.form.bits, block_size=layout.block,
            gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if is_padded:
            values = nodes.first(values, layout.cols, -1, output="" if self.in_half else output)
        if self.in_half:
            nodes.op("Cast", values, output=output, to=F16)

    def _zero_points(self, nodes: GraphNodes) -> str:
        """Explicit zero points: GatherBlockQuantized's default depends on the element type."""
        if "zero_points" in self.names:
            return self.names["zero_points"]
        form = self.layout.form
        byte = sum(form.offset << i for i in range(0, 8, form.bits))
        one = nodes.constant("zero_point", np.full((1, 1), byte, np.uint8))
        return self._expanded(nodes, one, (self.layout.rows, (self.layout.blocks * form.bits + 7) // 8), (1, 1))

    def _expanded(self, nodes: GraphNodes, name: str, shape: tuple[int, int], current: tuple[int, int]) -> str:
        """Scales or zero points with one value per block; the node folds when a session is created."""
        return name if shape == current else nodes.expanded(name, current, shape)
