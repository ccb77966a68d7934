"""Target ``custom``: our own ops on planes in kernel order, each with a body for runtimes without our library.

Where the library is registered its kernels take precedence; elsewhere ONNX Runtime inlines the body and folds it. A
weight is stored once, whatever consumes it: products and lookups by kernel, everything else through a Dequantize body
that folds at load.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxquant.formats.base import Encoded, Format, ScaledCodes
from onnxquant.graph.edit import Editor
from onnxquant.graph.io import graphs, nodes
from onnxquant.graph.sites import How, Site
from onnxquant.targets import bodies
from onnxquant.targets.base import F16, F32, Lowered, Refusal, Result, Target, add_planes, holds_codes
from onnxquant.targets.dense import read_decoded
from onnxquant.targets.layouts import TILE, Layout, Tiles, block_of
from onnxquant.targets.products import lower_product


class Custom(Target):
    """The ops of this package's library, with bodies."""

    name = "custom"
    summary = "our ops and kernels; every file also carries bodies and runs on stock onnxruntime"

    def holds(self, form: Format) -> bool:  # noqa: D102
        return isinstance(form, ScaledCodes) and holds_codes(form) and not form.has_zero_points

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not isinstance(form, ScaledCodes) or not holds_codes(form):
            return Refusal(f"our ops do not take {form.name}, which standard operators hold", "target onnx does")
        if form.has_zero_points:
            return Refusal("our kernels take symmetric codes", "targets onnx and ort hold zero points")
        half = site.tensor.data_type == F16
        needed = bodies.MIN_OPSET_HALF if half else bodies.MIN_OPSET
        if opset < needed:
            return Refusal(
                f"bodies are written for opset {needed} and up, the model has {opset}", "target ort takes any"
            )
        return self._padding(site, form)

    def _padding(self, site: Site, form: ScaledCodes) -> Refusal | None:
        """Refuse a weight that padding to whole tiles would make larger than it is worth."""
        padded = sum(s.nbytes for s in Tiles(form, site.rows, site.cols).stored().values())
        plain = form.nbytes(site.rows, site.cols)
        # Half of float16 is the bound; formats of 8 bits and more lie above it by themselves and may add a quarter.
        bound = max(site.elements, plain + plain // 4)
        if padded <= bound:
            return None
        return Refusal(
            f"padding [{site.rows}, {site.cols}] to tiles of 16 rows takes {padded} bytes, more than {bound} "
            f"({site.elements * 2} in float16)",
            "target onnx stores it unpadded",
        )

    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:  # noqa: D102
        return {"tiles": Tiles(form, site.rows, site.cols)}

    def lower(self, editor: Editor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        lowered = Lowered()
        layout = Tiles(form, site.rows, site.cols)
        names = lowered.planes["tiles"] = add_planes(editor, site, layout, encoded)
        planes = [names["codes"], names["scales"]]

        def product(x: str, output: str) -> list[onnx.NodeProto]:
            lowered.results.append(Result(How.PRODUCT, x, output))
            return [_call(editor, bodies.MATMUL, layout, [x, *planes], output)]

        for use in site.served(How.PRODUCT):
            lower_product(editor, site, use, product)
        for use in site.served(How.LOOKUP):
            indices, output = use.node.input[1], use.node.output[0]
            lowered.results.append(Result(How.LOOKUP, indices, output))
            half = site.tensor.data_type == F16
            found = [_call(editor, bodies.GATHER, layout, [*planes, indices], "" if half else output)]
            if half:
                found.append(editor.node("Cast", [found[0].output[0]], output=output, to=F16))
            editor.replace(use, found)
        if site.served(How.DENSE):
            node = _call(editor, bodies.DEQUANTIZE, layout, planes, "")
            for key, value in (
                ("shape", site.view.permuted),
                ("perm", site.view.inverse),
                ("to", site.tensor.data_type),
            ):
                node.attribute.append(onnx.helper.make_attribute(key, value))
            editor.first(site.graph, [node])
            read_decoded(site.served(How.DENSE), node.output[0], lowered)
        return lowered

    def finish(self, editor: Editor, lowered: Sequence[tuple[Site, Format]]) -> None:
        """Add the body of every op of ours that the model calls."""
        scaled = [(s, f) for s, f in lowered if isinstance(f, ScaledCodes)]
        ragged = any(s.rows % TILE or s.cols % block_of(f, s.cols) for s, f in scaled)
        half = any(s.tensor.data_type == F16 for s, _ in scaled)
        needs = bodies.Needs(editor.opset, half, ragged)
        called = {n.op_type for n in nodes(editor.proto) if n.domain == bodies.DOMAIN}
        for form in {f.name: f for _, f in scaled}.values():
            for kind in (bodies.MATMUL, bodies.GATHER, bodies.DEQUANTIZE):
                if bodies.op_name(kind, form.name) in called:
                    editor.function(bodies.body(kind, form, needs))
        editor.import_domain("com.microsoft", 1)
        types = {s.name: s.tensor.data_type for s, _ in scaled}
        for graph in graphs(editor.proto.graph):
            for node in graph.node:
                if node.domain == bodies.DOMAIN:
                    gathered = node.op_type.startswith(bodies.GATHER)
                    editor.declare(graph, node.output[0], F32 if gathered else types[node.metadata_props[0].value])


def _call(editor: Editor, kind: str, layout: Tiles, inputs: Sequence[str], output: str) -> onnx.NodeProto:
    form = layout.scaled
    blocks = layout.padded_cols // layout.block
    sizes = {
        "K": layout.cols,
        "N": layout.rows,
        "block_size": layout.block,
        "code_shape": [layout.padded_rows, blocks, layout.block * form.bits // 8],
        "scale_rows": [1, 1] if form.one_scale else [layout.padded_rows, layout.scale_groups],
        "scale_shape": [layout.padded_rows, blocks],
        "rows": [layout.rows],
        "cols": [layout.cols],
        "zero_shape": [layout.rows, (blocks * form.bits + 7) // 8],
    }
    wanted = ("K", "N", "block_size", *bodies.BODY_ATTRIBUTES[kind])
    attributes = {k: v for k, v in sizes.items() if k in wanted}
    name = bodies.op_name(kind, form.name)
    return editor.node(name, inputs, domain=bodies.DOMAIN, output=output, **attributes)
