"""Target ``custom``: our own ops on planes in kernel order, each with a body for runtimes without our library.

Where the library is registered its kernels take precedence; elsewhere ONNX Runtime inlines the body and folds it. A
weight is stored once, whatever consumes it: products and lookups by kernel, everything else through a Dequantize body
that folds at load.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from onnxquant.targets.base import F16, F32, Lowered, Result, Target, add_planes
from onnxquant.targets.dense import read_decoded
from onnxquant.targets.layouts import Layout
from onnxquant.targets.products import constant_bias, lower_product
from onnxquant.targets.tiles import Tiles


class Custom(Target):
    """The ops of this package's library, with bodies."""

    name = "custom"
    summary = "our ops and kernels; every file also carries bodies and runs on stock onnxruntime"

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First for formats of other projects: their planes convert back to the same bytes and have kernels of their own."""
        if folded or isinstance(form, Floats):
            return 20
        return 10 if form.foreign else 30

    def holds(self, form: Format) -> bool:  # noqa: D102
        return True

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        half = site.tensor.data_type == F16
        needed = bodies.MIN_OPSET_HALF if half else bodies.MIN_OPSET
        if opset < needed:
            return Refusal(
                f"bodies are written for opset {needed} and up, the model has {opset}", "target ort takes any"
            )
        return self._padding(site, form)

    def _padding(self, site: Site, form: Format) -> Refusal | None:
        """Refuse a weight that padding to whole tiles would make larger than it is worth."""
        padded = sum(s.nbytes for s in Tiles(form, site.rows, site.cols).stored().values())
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

    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:  # noqa: D102
        return {"tiles": Tiles(form, site.rows, site.cols)}

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        lowered = Lowered()
        op = _Ops(editor, site, Tiles(form, site.rows, site.cols), encoded, lowered)
        for use in site.served(UseKind.PRODUCT):
            bias = constant_bias(use, site)
            if bias:
                editor.replace(use, op.product(use.node.input[0], use.node.output[0], bias))
            else:
                lower_product(editor, site, use, op.product)
        for use in site.served(UseKind.LOOKUP):
            editor.replace(use, op.lookup(use.node.input[1], use.node.output[0]))
        if site.served(UseKind.DENSE):
            node = op.decode()
            editor.first(site.graph, [node])
            read_decoded(editor, site.served(UseKind.DENSE), node.output[0], lowered)
        return lowered

    def finish(self, editor: ModelEditor, lowered: Sequence[tuple[Site, Format]]) -> None:
        """Add the body of every op of ours that the model calls."""
        layouts = [Tiles(f, s.rows, s.cols) for s, f in lowered]
        ragged = any(x.rows != x.padded_rows or x.cols != x.padded_cols for x in layouts)
        half = any(s.tensor.data_type == F16 for s, _ in lowered)
        called = {n.op_type for n in nodes(editor.proto) if n.domain == DOMAIN}
        for layout in layouts:
            for kind in (bodies.MATMUL, bodies.GATHER, bodies.DEQUANTIZE):
                for bias in (False, True):
                    if bodies.op_name(kind, layout.form, bias=bias) in called:
                        needs = bodies.Needs(editor.opset, half, ragged, bias)
                        editor.function(bodies.body(kind, layout.form, tuple(layout.stored()), needs))
        editor.import_domain(MICROSOFT, 1)
        types = {s.name: s.tensor.data_type for s, _ in lowered}
        for graph in graphs(editor.proto.graph):
            for node in graph.node:
                if node.domain == DOMAIN:
                    gathered = node.op_type.startswith(bodies.GATHER)
                    editor.declare(graph, node.output[0], F32 if gathered else types[node.metadata_props[0].value])


class _Ops:
    """The nodes around one weight's planes."""

    def __init__(
        self, editor: ModelEditor, site: Site, layout: Tiles, encoded: Encoded | None, lowered: Lowered
    ) -> None:
        self.editor, self.site, self.layout, self.lowered = editor, site, layout, lowered
        names = lowered.planes["tiles"] = add_planes(editor, site, layout, encoded)
        self.planes = list(names.values())

    def product(self, x: str, output: str, bias: str = "") -> list[onnx.NodeProto]:
        """X @ W.T, and a bias added."""
        self.lowered.results.append(Result(UseKind.PRODUCT, x, output, bias))
        return [self._call(bodies.MATMUL, [x, *self.planes, *([bias] if bias else [])], output, bias=bool(bias))]

    def lookup(self, indices: str, output: str) -> list[onnx.NodeProto]:
        """Rows of W."""
        self.lowered.results.append(Result(UseKind.LOOKUP, indices, output))
        half = self.site.tensor.data_type == F16
        found = [self._call(bodies.GATHER, [*self.planes, indices], "" if half else output)]
        if half:
            found.append(self.editor.node(self.site, "Cast", [found[0].output[0]], output=output, to=F16))
        return found

    def decode(self) -> onnx.NodeProto:
        """W in its own shape."""
        node = self._call(bodies.DEQUANTIZE, self.planes, "")
        view = self.site.view
        for key, value in (("shape", view.permuted), ("perm", view.inverse), ("to", self.site.tensor.data_type)):
            node.attribute.append(onnx.helper.make_attribute(key, value))
        return node

    def _call(self, kind: str, inputs: Sequence[str], output: str, *, bias: bool = False) -> onnx.NodeProto:
        layout = self.layout
        blocks, groups = layout.blocks, layout.groups_in_row
        low = layout.low
        sizes = {
            "K": layout.cols,
            "N": layout.rows,
            "block_size": layout.block,
            "code_shape": [layout.padded_rows, blocks, layout.block * low // 8],
            "side_shape": [layout.padded_rows, blocks],
            "matrix": [layout.padded_rows, -1],
            "side_rows": [1, 1] if layout.one_scale else [layout.padded_rows, -1],
            "spread": [layout.padded_rows, groups, -(-blocks // groups)],
            "rows": [layout.rows],
            "cols": [layout.cols],
            "blocks": [blocks],
            "zero_shape": [layout.rows, (blocks * low + 7) // 8],
        }
        name = bodies.op_name(kind, layout.form, bias=bias)
        return self.editor.node(self.site, name, inputs, domain=DOMAIN, output=output, **sizes)
