"""Target ``custom``: our own operators on planes in kernel order, each with a body for runtimes without our library.

Where the library is registered its kernels take precedence; elsewhere ONNX Runtime inlines the body and folds it. A
weight is stored once, whatever consumes it: products and lookups by kernel, everything else through a Dequantize body
that folds at load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import DOMAIN, MICROSOFT
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.graph.traverse import graphs, nodes
from onnxquant.targets import bodies
from onnxquant.targets.base import Lowered, Result, Target, add_planes
from onnxquant.targets.dense import read_decoded
from onnxquant.targets.layouts.base import Layout
from onnxquant.targets.layouts.tiles import TilesLayout
from onnxquant.targets.node_builder import F16, F32, GraphNodes
from onnxquant.targets.products import constant_bias, lower_lookup, lower_product

# The use of a weight that each kind of operator serves.
_USES = {bodies.MATMUL: UseKind.PRODUCT, bodies.GATHER: UseKind.LOOKUP, bodies.DEQUANTIZE: UseKind.DENSE}


class Custom(Target):
    """The ops of this package's library, with bodies."""

    name = "custom"
    summary = "our ops and kernels; every file also carries bodies and runs on stock onnxruntime"
    layout_types = (TilesLayout,)

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First for formats of other projects: their planes convert back to the same bytes and have kernels of their own."""
        if folded or isinstance(form, Floats):
            return 20
        return 10 if form.foreign else 30

    def holds(self, form: Format) -> bool:  # noqa: D102
        return form.is_compiled and not form.changes_nothing

    def wanted_opset(self, site: Site, form: Format) -> int:
        """The opset that bodies are written for."""
        return bodies.MIN_OPSET_HALF if site.tensor.data_type == F16 else bodies.MIN_OPSET

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        needed = self.wanted_opset(site, form)
        if opset < needed:
            return Refusal(
                f"bodies are written for opset {needed} and up, the model has {opset}", "target ort takes any"
            )
        return self._refusal_of_padding(site, form, opset)

    def _refusal_of_padding(self, site: Site, form: Format, opset: int) -> Refusal | None:
        """Refuse a weight that padding to whole tiles would make larger than it is worth."""
        padded = TilesLayout(form, site.view, opset).nbytes
        plain = form.nbytes(site.rows, site.cols)
        # Half of float16, or twice the format's own size where that is more.
        bound = max(site.elements, 2 * plain)
        if padded <= bound:
            return None
        return Refusal(
            f"padding [{site.rows}, {site.cols}] to tiles of 16 rows takes {padded} bytes, more than {bound} "
            f"({site.elements * 2} in float16)",
            "target onnx stores it unpadded",
        )

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        return [TilesLayout(form, site.view, opset)]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = TilesLayout(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        weight = _CustomOps(layout, list(names.values()))
        for use in site.served(UseKind.PRODUCT):
            if bias := constant_bias(use, site):
                product = GraphNodes(editor, site)
                weight.product(product, use.node.input[0], use.node.output[0], bias)
                editor.replace(use, product.nodes)
            else:
                lower_product(editor, site, use, weight.product)
        for use in site.served(UseKind.LOOKUP):
            lower_lookup(editor, site, use, weight.lookup)
        lowered = Lowered({layout.name: names}, weight.results)
        if dense := site.served(UseKind.DENSE):
            first = GraphNodes(editor, site)
            decoded = weight.decode(first)
            first.insert_first()
            lowered.results.append(read_decoded(editor, dense, decoded))
        return lowered

    def finish(self, editor: ModelEditor, lowered: Sequence[tuple[Site, Format]]) -> None:
        """Add the body of every op of ours that the model calls."""
        layouts = [TilesLayout(form, site.view, editor.opset) for site, form in lowered]
        ragged_rows, ragged_cols, spread = set[str](), set[str](), set[str]()
        for layout, (site, _) in zip(layouts, lowered, strict=True):
            names = {bodies.custom_op_name(kind, layout.form) for kind, use in _USES.items() if site.served(use)}
            ragged_rows |= names if layout.rows != layout.padded_rows else set()
            ragged_cols |= names if layout.cols != layout.padded_cols else set()
            spread |= names if layout.one_scale or layout.groups_in_row != layout.blocks else set()
        half = any(s.tensor.data_type == F16 for s, _ in lowered)
        called = {n.op_type for n in nodes(editor.proto) if n.domain == DOMAIN}
        for layout in layouts:
            for kind in _USES:
                name = bodies.custom_op_name(kind, layout.form)
                for bias in (False, True):
                    if bodies.custom_op_name(kind, layout.form, bias=bias) in called:
                        needs = bodies.Needs(
                            editor.opset, half, name in ragged_rows, name in ragged_cols, name in spread, bias
                        )
                        editor.function(bodies.body(kind, layout.form, tuple(layout.specs()), needs))
        editor.import_domain(MICROSOFT, 1)
        sites = {site.name: site for site, _ in lowered}
        for graph in graphs(editor.proto.graph):
            for node in graph.node:
                if node.domain == DOMAIN:
                    _declare_output(editor, graph, node, sites[node.metadata_props[0].value])


def _declare_output(editor: ModelEditor, graph: onnx.GraphProto, node: onnx.NodeProto, site: Site) -> None:
    """State the type of what an operator of ours computes, and the shape of a decoded weight.

    Some operators of onnxruntime refuse a weight whose shape is not known before functions are inlined.
    """
    elem_type = F32 if node.op_type.startswith(bodies.GATHER) else site.tensor.data_type
    is_decoded = node.op_type.startswith(bodies.DEQUANTIZE)
    editor.declare(graph, node.output[0], elem_type, site.shape if is_decoded else None)


class _CustomOps:
    """Our operators on one weight."""

    def __init__(self, layout: TilesLayout, planes: Sequence[str]) -> None:
        self.layout, self.planes = layout, planes
        self.results: list[Result] = []

    def product(self, nodes: GraphNodes, x: str, output: str, bias: str = "") -> None:
        """Add X @ W.T, plus a bias."""
        self.results.append(Result(UseKind.PRODUCT, x, output, bias))
        inputs = [x, *self.planes, *([bias] if bias else [])]
        nodes.op(
            bodies.custom_op_name(bodies.MATMUL, self.layout.form, bias=bool(bias)), *inputs, **self._attributes(output)
        )

    def lookup(self, nodes: GraphNodes, indices: str, output: str) -> None:
        """Add the rows of W."""
        self.results.append(Result(UseKind.LOOKUP, indices, output))
        in_half = nodes.site.tensor.data_type == F16
        name = bodies.custom_op_name(bodies.GATHER, self.layout.form)
        rows = nodes.op(name, *self.planes, indices, **self._attributes("" if in_half else output))
        if in_half:
            nodes.op("Cast", rows, output=output, to=F16)

    def decode(self, nodes: GraphNodes) -> str:
        """Add W in its own shape."""
        view, elem_type = nodes.site.view, nodes.site.tensor.data_type
        name = bodies.custom_op_name(bodies.DEQUANTIZE, self.layout.form)
        shape: dict[str, Any] = {"shape": view.permuted, "perm": view.inverse, "to": elem_type}
        return nodes.op(name, *self.planes, **self._attributes(""), **shape)

    def _attributes(self, output: str) -> dict[str, Any]:
        """Arguments of ``GraphNodes.op``: where the operator is defined, its output, and sizes as attributes."""
        layout = self.layout
        blocks, groups, low = layout.blocks, layout.groups_in_row, layout.low
        return {
            "domain": DOMAIN,
            "output": output,
            "K": layout.cols,
            "N": layout.rows,
            "block_size": layout.block,
            "code_shape": [layout.padded_rows, blocks, layout.block * low // 8],
            "matrix": [layout.padded_rows, -1],
            "side_rows": [1, 1] if layout.one_scale else [layout.padded_rows, -1],
            "spread": [layout.rows, groups, -(-blocks // groups)],
            "rows": [layout.rows],
            "cols": [layout.cols],
            "blocks": [blocks],
            "zero_shape": [layout.rows, (blocks * low + 7) // 8],
        }
