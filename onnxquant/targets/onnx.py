"""Target ``onnx``: standard ops only, in the forms that ONNX Runtime turns into fast kernels.

A product is DequantizeLinear of a [K, N] weight along axis 0: from 1.25 on ONNX Runtime fuses it with MatMul and Gemm to
its block-wise kernel (4-bit MatMul from 1.23 on). A lookup gathers codes and scales first and decodes only those rows.
Everything else is decoded ahead of the op and folds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.base import F16, F32, Lowered, Result, Target, add_planes, float_scales, holds_codes
from onnxquant.targets.dense import lower_dense
from onnxquant.targets.layouts import IR_OF_BITS, OPSET_OF_BITS, Columns, Dense, Layout, Table
from onnxquant.targets.products import lower_product

# What DequantizeLinear learned when: an axis, float16 scales, blocks.
AXIS_OPSET, HALF_OPSET, BLOCKED_OPSET = 13, 19, 21


class Onnx(Target):
    """Standard ONNX operators."""

    name = "onnx"
    summary = "standard operators: DequantizeLinear fused by onnxruntime >= 1.25, Cast and Mul folded at load"

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First for what is decoded at load, last for what has a kernel."""
        return 10 if folded or isinstance(form, Floats) else 30 if form.foreign else 20

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_codes(form) or (isinstance(form, Floats) and not form.permuted)

    def needs_opset(self, site: Site, form: Format) -> int:
        """The opset that a product of this site takes (0: any)."""
        if isinstance(form, Floats) or not site.served(UseKind.PRODUCT):
            return 0
        blocked = BLOCKED_OPSET if isinstance(form.granularity, PerBlock) else AXIS_OPSET
        half = HALF_OPSET if site.tensor.data_type == F16 else 0
        return max(blocked, half, OPSET_OF_BITS.get(form.bits, 1))

    def wanted_opset(self, site: Site, form: Format) -> int:
        """The opset from which the site is held best: below it, dense codes of 4 and 2 bits are unpacked at load."""
        dense = OPSET_OF_BITS.get(form.bits, 1) if site.served(UseKind.DENSE) else 0
        return max(self.needs_opset(site, form), dense)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"no standard operator holds {form.name}", "target custom does")
        needed = self.needs_opset(site, form)
        if opset < needed:
            return Refusal(
                f"DequantizeLinear holds {form.bits}-bit codes like these from opset {needed} on, the model has {opset}",
                "targets ort and custom take any",
            )
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:  # noqa: D102
        out: dict[str, Layout] = {}
        if isinstance(form, Floats):
            return {"dense": Dense(form, site.view, opset)}
        if site.served(UseKind.PRODUCT):
            out["columns"] = Columns(form, site.rows, site.cols)
        if site.served(UseKind.LOOKUP):
            out["table"] = Table(form, site.rows, site.cols)
        if site.served(UseKind.DENSE):
            out["dense"] = Dense(form, site.view, opset)
        return out

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        lowered = Lowered()
        if isinstance(form, Floats):
            lower_dense(editor, site, form, encoded, lowered, site.uses)
            return lowered
        for kind, layout in self.layouts(site, form, editor.opset).items():
            if kind == "dense":
                lower_dense(editor, site, form, encoded, lowered)
                continue
            names = lowered.planes[kind] = add_planes(editor, site, layout, encoded)
            if isinstance(layout, Columns):
                _products(editor, site, layout, names, lowered)
            elif isinstance(layout, Table):
                _lookups(editor, site, layout, names, lowered)
        return lowered


def _products(editor: ModelEditor, site: Site, layout: Columns, names: dict[str, str], lowered: Lowered) -> None:
    """One DequantizeLinear for all the products of a weight."""
    form = layout.scaled
    editor.require_ir(IR_OF_BITS[form.bits])
    to = F16 if site.tensor.data_type == F16 else F32
    scales = float_scales(editor, site, names["scales"], layout.stored()["scales"].elem_type, to)
    attributes: dict[str, Any] = {}
    if isinstance(form.granularity, PerBlock):
        attributes = {"axis": 0, "block_size": form.granularity.size}
    elif isinstance(form.granularity, PerRow):
        attributes = {"axis": 1}
    inputs = [names["codes"], scales] + ([names["zero_points"]] if "zero_points" in names else [])
    decode = editor.node(site, "DequantizeLinear", inputs, **attributes)
    editor.first(site.graph, [decode])
    weight = decode.output[0]

    def product(x: str, output: str) -> list[onnx.NodeProto]:
        lowered.results.append(Result(UseKind.PRODUCT, x, output))
        wide = layout.padded_rows != layout.rows
        # ONNX Runtime turns MatMul + Add + activation on two axes into one op that its block-wise kernel cannot
        # replace, and then decodes the weight on every call. With a third axis it leaves the MatMul alone.
        axis = editor.constant(site.graph, f"{site.name}/axis", np.array([0], np.int64))
        nodes = [editor.node(site, "Unsqueeze", [x, axis])]
        nodes.append(editor.node(site, "MatMul", [nodes[-1].output[0], weight]))
        nodes.append(editor.node(site, "Squeeze", [nodes[-1].output[0], axis], output="" if wide else output))
        if wide:
            ends = [
                editor.constant(site.graph, f"{site.name}/{label}", np.array([value], np.int64))
                for label, value in (("start", 0), ("end", layout.rows), ("axis", -1))
            ]
            nodes.append(editor.node(site, "Slice", [nodes[-1].output[0], *ends], output=output))
        return nodes

    for use in site.served(UseKind.PRODUCT):
        lower_product(editor, site, use, product)


def _lookups(editor: ModelEditor, site: Site, layout: Table, names: dict[str, str], lowered: Lowered) -> None:
    """Gather the rows' codes and scales, then decode: the table itself is never decoded."""
    for use in site.served(UseKind.LOOKUP):
        indices, output = use.node.input[1], use.node.output[0]
        lowered.results.append(Result(UseKind.LOOKUP, indices, output))
        editor.replace(use, _Lookup(editor, site, layout, names).nodes_for(indices, output))


class _Lookup:
    """The nodes of one lookup: rows of codes, unpacked by float arithmetic, minus zero, times scale."""

    def __init__(self, editor: ModelEditor, site: Site, layout: Table, names: dict[str, str]) -> None:
        self.editor, self.site, self.layout, self.names = editor, site, layout, names
        self.nodes: list[onnx.NodeProto] = []

    def nodes_for(self, indices: str, output: str) -> list[onnx.NodeProto]:
        layout, form = self.layout, self.layout.scaled
        codes = self._unpacked(self._add("Cast", self._add("Gather", self.names["codes"], indices, axis=0), to=F32))
        lead = self._add("Shape", indices)
        shape = self._add("Concat", lead, self._ints(layout.groups[1], -1), axis=0)
        codes = self._add("Reshape", codes, shape)
        zero = self._side("zero_points", indices) if form.has_zero_points else self._float(form.offset)
        scaled = self._add("Mul", self._add("Sub", codes, zero), self._side("scales", indices))
        flat = self._add("Reshape", scaled, self._add("Concat", lead, self._ints(-1), axis=0))
        if layout.blocks * layout.block != layout.cols:
            flat = self._add("Slice", flat, self._ints(0), self._ints(layout.cols), self._ints(-1))
        self._add("Cast", flat, output=output, to=self.site.tensor.data_type)
        return self.nodes

    def _unpacked(self, rest: str) -> str:
        per_byte = 8 // self.layout.scaled.bits
        if per_byte == 1:
            return rest
        base, parts = self._float(1 << self.layout.scaled.bits), []
        for _ in range(per_byte - 1):
            above = self._add("Floor", self._add("Div", rest, base))
            parts.append(self._add("Sub", rest, self._add("Mul", above, base)))
            rest = above
        return self._add("Concat", *[self._last_axis(p) for p in [*parts, rest]], axis=-1)

    def _side(self, plane: str, indices: str) -> str:
        name = self.names[plane]
        if not isinstance(self.layout.scaled.granularity, PerTensor):
            name = self._last_axis(self._add("Gather", name, indices, axis=0))
        return self._add("Cast", name, to=F32)

    def _last_axis(self, name: str) -> str:
        if self.editor.opset >= 13:
            return self._add("Unsqueeze", name, self._ints(-1))
        return self._add("Unsqueeze", name, axes=[-1])

    def _add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        node = self.editor.node(self.site, op, inputs, output=output, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def _ints(self, *values: int) -> str:
        return self.editor.constant(self.site.graph, f"{self.site.name}/shape", np.array(values, np.int64))

    def _float(self, value: float) -> str:
        return self.editor.constant(self.site.graph, f"{self.site.name}/constant", np.float32(value))
