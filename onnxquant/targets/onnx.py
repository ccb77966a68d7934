"""Target ``onnx``: standard operators only, in the forms that ONNX Runtime turns into fast kernels.

A product is DequantizeLinear of a [K, N] weight along axis 0: from 1.25 on ONNX Runtime fuses it with MatMul and Gemm to
its block-wise kernel (4-bit MatMul from 1.23 on). A lookup gathers codes and scales first and decodes only those rows.
Every other weight is decoded ahead of the operator and folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.base import Lowered, Result, Target, add_planes, holds_codes
from onnxquant.targets.dense import lower_dense
from onnxquant.targets.kinds import LAST_DEQUANTIZE_OPSET
from onnxquant.targets.layouts.base import IR_OF_BITS, OPSET_OF_BITS, Layout
from onnxquant.targets.layouts.columns import ColumnsLayout
from onnxquant.targets.layouts.dense import DenseLayout
from onnxquant.targets.layouts.table import TableLayout
from onnxquant.targets.node_builder import F16, F32, GraphNodes
from onnxquant.targets.products import lower_lookup, lower_product

# The opsets in which DequantizeLinear got an axis, float16 scales and blocks.
AXIS_OPSET, HALF_OPSET, BLOCKED_OPSET = 13, 19, 21
# The opsets in which Cast got a type.
_CAST_OPSETS = {"bfloat16": 13, "float8_e4m3fn": 19, "float8_e5m2": 19}
# The opset in which the axes of Unsqueeze became an input.
_AXES_INPUT_OPSET = 13


class Onnx(Target):
    """Standard ONNX operators."""

    name = "onnx"
    summary = "standard operators: DequantizeLinear fused by onnxruntime >= 1.25, Cast and Mul folded at load"
    layout_types = (ColumnsLayout, TableLayout, DenseLayout)

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First for weights that are decoded at load, last for those that another target has a kernel for."""
        return 10 if folded or isinstance(form, Floats) else 30 if form.foreign else 20

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_codes(form) or (isinstance(form, Floats) and not form.permuted and not form.changes_nothing)

    def takes_float16(self, form: Format) -> bool:
        """Whether DequantizeLinear makes float16 weights, of which onnxruntime's kernel takes the codes."""
        return holds_codes(form)

    def needs_opset(self, site: Site, form: Format) -> int:
        """The opset that a product of this site, or the type of the format's values, takes (0: any)."""
        if isinstance(form, Floats):
            return _CAST_OPSETS.get(form.dtype.name, 0)
        if not site.served(UseKind.PRODUCT):
            return 0
        blocked = BLOCKED_OPSET if isinstance(form.granularity, PerBlock) else AXIS_OPSET
        half = HALF_OPSET if site.tensor.data_type == F16 else 0
        return max(blocked, half, OPSET_OF_BITS.get(form.bits, 1))

    def wanted_opset(self, site: Site, form: Format) -> int:
        """Below it, products are refused, and dense codes of 4 and 2 bits are unpacked at load."""
        dense = OPSET_OF_BITS.get(form.bits, 1) if site.served(UseKind.DENSE) else 0
        return max(self.needs_opset(site, form), dense)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"no standard operator holds {form.name}", "target custom does")
        needed = self.needs_opset(site, form)
        if opset > LAST_DEQUANTIZE_OPSET and needed and not isinstance(form, Floats):
            return Refusal(
                f"onnxruntime has no DequantizeLinear of opset {opset} yet", "targets ort and custom take any"
            )
        if opset < needed and isinstance(form, Floats):
            return Refusal(f"Cast takes {form.dtype.name} from opset {needed} on, the model has {opset}")
        if opset < needed:
            return Refusal(
                f"DequantizeLinear holds {form.bits}-bit codes like these from opset {needed} on, the model has {opset}",
                "targets ort and custom take any",
            )
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        dense = DenseLayout(form, site.view, opset)
        if isinstance(form, Floats):
            return [dense]
        out: list[Layout] = []
        if site.served(UseKind.PRODUCT):
            out.append(ColumnsLayout(form, site.view, opset))
        if site.served(UseKind.LOOKUP):
            out.append(TableLayout(form, site.view, opset))
        return [*out, dense] if site.served(UseKind.DENSE) else out

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        lowered = Lowered()
        for layout in self.layouts(site, form, editor.opset):
            if isinstance(layout, ColumnsLayout):
                lowered.add(_lower_products(editor, site, layout, encoded))
            elif isinstance(layout, TableLayout):
                lowered.add(_lower_lookups(editor, site, layout, encoded))
            elif isinstance(layout, DenseLayout):
                uses = site.uses if isinstance(form, Floats) else site.served(UseKind.DENSE)
                lowered.add(lower_dense(editor, site, layout, encoded, uses))
        return lowered


def _lower_products(editor: ModelEditor, site: Site, layout: ColumnsLayout, encoded: Encoded | None) -> Lowered:
    """One DequantizeLinear for all the products of a weight."""
    names = add_planes(editor, site, layout, encoded)
    lowered = Lowered({layout.name: names})
    editor.require_ir(IR_OF_BITS[layout.form.bits])
    weight = _dequantized(editor, site, layout, names)

    def product(nodes: GraphNodes, x: str, output: str) -> None:
        lowered.results.append(Result(UseKind.PRODUCT, x, output))
        is_padded = layout.padded_rows != layout.rows
        # ONNX Runtime turns MatMul + Add + activation on two axes into one op that its block-wise kernel cannot
        # replace, and then decodes the weight on every call. With a third axis it leaves the MatMul alone.
        axis = nodes.ints(0, label="axis")
        values = nodes.op("MatMul", nodes.op("Unsqueeze", x, axis), weight)
        values = nodes.op("Squeeze", values, axis, output="" if is_padded else output)
        if is_padded:
            nodes.first(values, layout.rows, -1, output=output)

    for use in site.served(UseKind.PRODUCT):
        lower_product(editor, site, use, product)
    return lowered


def _dequantized(editor: ModelEditor, site: Site, layout: ColumnsLayout, names: Mapping[str, str]) -> str:
    nodes, scales, granularity = GraphNodes(editor, site), names["scales"], layout.form.granularity
    elem_type = F16 if site.tensor.data_type == F16 else F32
    if layout.specs()["scales"].elem_type != elem_type:
        # It folds when a session is created, so that scales are stored in 16 bits.
        scales = nodes.cast(scales, elem_type)
    attributes: dict[str, Any] = {}
    if isinstance(granularity, PerBlock):
        attributes = {"axis": 0, "block_size": granularity.size}
    elif isinstance(granularity, PerRow):
        attributes = {"axis": 1}
    zero_points = [names["zero_points"]] if "zero_points" in names else []
    weight = nodes.op("DequantizeLinear", names["codes"], scales, *zero_points, **attributes)
    nodes.insert_first()
    return weight


def _lower_lookups(editor: ModelEditor, site: Site, layout: TableLayout, encoded: Encoded | None) -> Lowered:
    """Gather the rows' codes and scales, then decode: the table itself is never decoded."""
    names = add_planes(editor, site, layout, encoded)
    lowered = Lowered({layout.name: names})

    def lookup(nodes: GraphNodes, indices: str, output: str) -> None:
        lowered.results.append(Result(UseKind.LOOKUP, indices, output))
        _Lookup(nodes, layout, names, indices).add_nodes(output)

    for use in site.served(UseKind.LOOKUP):
        lower_lookup(editor, site, use, lookup)
    return lowered


class _Lookup:
    """One lookup: rows of codes, unpacked, minus zero, times scale."""

    def __init__(self, nodes: GraphNodes, layout: TableLayout, names: Mapping[str, str], indices: str) -> None:
        self.nodes, self.layout, self.names, self.indices = nodes, layout, names, indices

    def add_nodes(self, output: str) -> None:
        """Add the nodes that compute the rows."""
        nodes, layout, form = self.nodes, self.layout, self.layout.form
        codes = self._codes()
        lead = nodes.op("Shape", self.indices)
        shape = nodes.op("Concat", lead, nodes.ints(layout.groups[1], -1), axis=0)
        codes = nodes.op("Reshape", codes, shape)
        zero = nodes.floats(self._side(self.names["zero_points"])) if form.has_zero_points else nodes.number(form.offset)
        scaled = nodes.op("Mul", nodes.op("Sub", codes, zero), self._side(self._scales()))
        flat = nodes.op("Reshape", scaled, nodes.op("Concat", lead, nodes.ints(-1), axis=0))
        if layout.blocks * layout.block != layout.cols:
            flat = nodes.first(flat, layout.cols, -1)
        nodes.op("Cast", flat, output=output, to=nodes.site.tensor.data_type)

    def _codes(self) -> str:
        """The codes of the rows as floats."""
        nodes = self.nodes
        packed = nodes.floats(nodes.op("Gather", self.names["codes"], self.indices, axis=0))
        fields = nodes.fields(packed, self.layout.form.bits)
        return nodes.op("Concat", *map(self._last_axis, fields), axis=-1) if len(fields) > 1 else packed

    def _scales(self) -> str:
        """The scales of all rows in float32: the Cast folds, and graphics cards without float16 look up what it makes."""
        name = self.names["scales"]
        return name if self.layout.specs()["scales"].elem_type == F32 else self.nodes.floats(name)

    def _side(self, values: str) -> str:
        """Scales or zero points of the rows."""
        if isinstance(self.layout.form.granularity, PerTensor):
            return values
        return self._last_axis(self.nodes.op("Gather", values, self.indices, axis=0))

    def _last_axis(self, name: str) -> str:
        if self.nodes.editor.opset >= _AXES_INPUT_OPSET:
            return self.nodes.op("Unsqueeze", name, self.nodes.ints(-1))
        return self.nodes.op("Unsqueeze", name, axes=[-1])
