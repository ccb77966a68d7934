"""Target ``ort``: ONNX Runtime's own block-wise operators (domain com.microsoft).

MatMulNBits with an explicit accuracy_level (unset, 8 and 2 bits run fifty times slower) and GatherBlockQuantized with
explicit zero points. Both take the weight as it lies on disk; loading is fastest of all targets. Nodes that neither can
serve read the same codes, decoded when a session is created. Products with nf4 and fp4 are MatMulBnb4, which decodes the
weight in each call.
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
from onnxquant.graph.sites import Site, Use
from onnxquant.targets import experts
from onnxquant.targets.base import Lowered, Result, Target, add_planes, holds_codes
from onnxquant.targets.dense import read_decoded
from onnxquant.targets.layouts.base import Layout
from onnxquant.targets.layouts.bnb4 import Bnb4Layout, holds_bnb4
from onnxquant.targets.layouts.rows import RowsLayout
from onnxquant.targets.node_builder import F16, F32, GraphNodes
from onnxquant.targets.products import lower_lookup, lower_product

# Activations of 8 bits with one scale per block: the fast path of MLAS for every code width.
ACCURACY_LEVEL = 4
# MatMulBnb4's numbers for bitsandbytes' tables.
_QUANT_TYPES = {"fp4": 0, "nf4": 1}


class Ort(Target):
    """ONNX Runtime's contributed operators."""

    name = "ort"
    summary = "MatMulNBits, GatherBlockQuantized and MatMulBnb4 of onnxruntime >= 1.23; loads fastest"
    layout_types = (RowsLayout, Bnb4Layout)
    takes_experts = True

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First where ONNX Runtime's own ops hold a format exactly."""
        if folded or isinstance(form, Floats):
            return None
        return 20 if form.foreign else 10

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_codes(form) or holds_bnb4(form)

    def takes_float16(self, form: Format) -> bool:
        """Whether its kernel computes on the codes with float16 activations; MatMulBnb4 decodes them in float32."""
        return holds_codes(form)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            other = "onnx" if isinstance(form, Floats) and not form.permuted else "custom"
            return Refusal(
                f"onnxruntime has no op that takes {form.name} weights like these", f"target {other} holds them"
            )
        if holds_bnb4(form) and len(site.served(UseKind.PRODUCT)) < len(site.uses):
            return Refusal(
                f"MatMulBnb4 multiplies {form.name} weights, and this one is read otherwise", "target custom holds it"
            )
        if layers := site.served(UseKind.EXPERTS):
            refusals = [experts.refusal(use.node) for use in layers]
            return next(filter(None, refusals), None) or experts.refusal_of_form(site, form, opset)
        if not (site.has_kernel or site.is_folded):
            return Refusal(f"com.microsoft has no weight-only op for {site.role}", "target onnx decodes it at load")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        if holds_bnb4(form):
            return [Bnb4Layout(form, site.view, opset)]
        return [RowsLayout(form, site.view, opset)]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        if holds_bnb4(form):
            return _lower_bnb4(editor, site, Bnb4Layout(form, site.view, editor.opset), encoded)
        layout = RowsLayout(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        weight = _Blockwise(editor, site, layout, names)
        for use in site.served(UseKind.PRODUCT):
            lower_product(editor, site, use, weight.product)
        for use in site.served(UseKind.LOOKUP):
            lower_lookup(editor, site, use, weight.lookup)
        layers = site.served(UseKind.EXPERTS)
        for use in layers:
            weight.experts(use)
        if dense := [use for use in site.served(UseKind.DENSE) if use not in layers]:
            weight.results.append(read_decoded(editor, dense, weight.decoded()))
        return Lowered({layout.name: names}, weight.results)


def _lower_bnb4(editor: ModelEditor, site: Site, layout: Bnb4Layout, encoded: Encoded | None) -> Lowered:
    """Multiply by MatMulBnb4, between casts when the model computes in float16."""
    names = add_planes(editor, site, layout, encoded)
    lowered = Lowered({layout.name: names})
    in_half = site.tensor.data_type == F16

    def product(nodes: GraphNodes, x: str, output: str) -> None:
        lowered.results.append(Result(UseKind.PRODUCT, x, output))
        product = nodes.op(
            "MatMulBnb4", nodes.floats(x) if in_half else x, names["codes"], names["scales"], domain=MICROSOFT,
            output="" if in_half else output, K=layout.cols, N=layout.rows, block_size=layout.form.block_size,
            quant_type=_QUANT_TYPES[layout.form.name],
        )  # fmt: skip
        if in_half:
            nodes.op("Cast", product, output=output, to=F16)

    for use in site.served(UseKind.PRODUCT):
        lower_product(editor, site, use, product)
    return lowered


class _Blockwise:
    """The block-wise operators on one weight."""

    def __init__(self, editor: ModelEditor, site: Site, layout: RowsLayout, names: Mapping[str, str]) -> None:
        self.editor, self.site, self.layout, self.names = editor, site, layout, names
        self.results: list[Result] = []
        # onnxruntime has kernels for float16 beside codes of 4 and 8 bits; of 2 bits from 1.28 on.
        is_half = site.tensor.data_type == F16
        self.in_half = is_half and layout.form.bits != 2
        self.has_casts = is_half and not self.in_half
        nodes = GraphNodes(editor, site)
        scales, elem_type = names["scales"], F16 if self.in_half else F32
        if layout.specs()["scales"].elem_type != elem_type:
            # It folds when a session is created, so that scales are stored in 16 bits.
            scales = nodes.cast(scales, elem_type)
        self.scales = self._expanded(nodes, scales, (layout.rows, layout.blocks), layout.groups)
        nodes.insert_first()

    def product(self, nodes: GraphNodes, x: str, output: str) -> None:
        """Add MatMulNBits, between casts where it has no kernel for the float16 of the model."""
        self.results.append(Result(UseKind.PRODUCT, x, output))
        layout = self.layout
        inputs = [nodes.floats(x) if self.has_casts else x, self.names["codes"], self.scales]
        if "zero_points" in self.names:
            inputs.append(self.names["zero_points"])
        product = nodes.op(
            "MatMulNBits", *inputs, domain=MICROSOFT, output="" if self.has_casts else output, K=layout.cols,
            N=layout.rows, bits=layout.form.bits, block_size=layout.block, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip
        if self.has_casts:
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
            output="" if is_padded or self.has_casts else output, bits=layout.form.bits, block_size=layout.block,
            gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if is_padded:
            values = nodes.first(values, layout.cols, -1, output="" if self.has_casts else output)
        if self.has_casts:
            nodes.op("Cast", values, output=output, to=F16)

    def experts(self, use: Use) -> None:
        """Let a layer of experts read the codes and scales, seen as three axes."""
        layout, nodes = self.layout, GraphNodes(self.editor, self.site)
        count, outputs = self.site.shape[:2]
        planes = {
            "codes": nodes.op("Reshape", self.names["codes"], nodes.ints(count, outputs, -1)),
            "scales": nodes.op("Reshape", self.scales, nodes.ints(count, outputs, -1)),
        }
        nodes.insert_first()
        experts.take_codes(use.node, use.input, planes, experts.attributes_of(layout))
        self.results.append(Result(UseKind.EXPERTS, planes["codes"], use.node.output[0]))

    def decoded(self) -> str:
        """Add the weight in its own shape and type, in nodes that fold when a session is created."""
        nodes, layout, view = GraphNodes(self.editor, self.site), self.layout, self.site.view
        codes = self._unpacked(nodes, "codes", (layout.rows, layout.blocks, layout.block))
        if "zero_points" in self.names:
            zero = nodes.first(self._unpacked(nodes, "zero_points", (layout.rows, -1, 1)), layout.blocks, 1)
        else:
            zero = nodes.number(layout.form.offset)
        scales = nodes.op("Reshape", nodes.floats(self.names["scales"]), nodes.ints(*layout.groups, 1))
        values = nodes.op("Mul", nodes.op("Sub", codes, zero), scales)
        values = nodes.op("Reshape", values, nodes.ints(layout.rows, -1))
        if layout.blocks * layout.block != layout.cols:
            values = nodes.first(values, layout.cols, 1)
        if view.permuted != (layout.rows, layout.cols):
            values = nodes.op("Reshape", values, nodes.ints(*view.permuted))
        if view.perm != tuple(range(len(view.perm))):
            values = nodes.op("Transpose", values, perm=list(view.inverse))
        values = values if self.site.tensor.data_type == F32 else nodes.cast(values, self.site.tensor.data_type)
        nodes.insert_first()
        return values

    def _unpacked(self, nodes: GraphNodes, plane: str, shape: tuple[int, ...]) -> str:
        """The codes or zero points of a plane as floats, in a shape."""
        fields = nodes.fields(nodes.floats(self.names[plane]), self.layout.form.bits)
        if len(fields) == 1:
            return nodes.op("Reshape", fields[0], nodes.ints(*shape))
        column = nodes.ints(-1, 1)
        joined = nodes.op("Concat", *[nodes.op("Reshape", field, column) for field in fields], axis=1)
        return nodes.op("Reshape", joined, nodes.ints(*shape))

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
