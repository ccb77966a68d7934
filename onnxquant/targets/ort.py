"""Target ``ort``: ONNX Runtime's own block-wise ops (domain com.microsoft).

MatMulNBits with an explicit accuracy_level (unset, 8 and 2 bits run fifty times slower) and GatherBlockQuantized with
explicit zero points. Both take the weight as it lies on disk; loading is fastest of all targets. What neither op can
consume is decoded ahead in standard ops, as on target onnx.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.base import F16, F32, Lowered, Result, Target, add_planes, float_scales, holds_codes
from onnxquant.targets.dense import lower_dense
from onnxquant.targets.layouts import Dense, Layout, Rows
from onnxquant.targets.products import lower_product

# int8 activations, one scale per block: the fast path of MLAS for every code width.
ACCURACY_LEVEL = 4


class Ort(Target):
    """ONNX Runtime's contributed operators."""

    name = "ort"
    summary = "MatMulNBits and GatherBlockQuantized of onnxruntime >= 1.23; loads fastest"

    def rank(self, form: Format, *, folded: bool) -> int | None:
        """First where ONNX Runtime's own ops hold a format exactly."""
        if folded or isinstance(form, Floats):
            return None
        return 20 if form.foreign else 10

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_codes(form)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"onnxruntime has no op that takes {form.name} weights", "target onnx holds them")
        if not site.has_kernel:
            return Refusal(f"com.microsoft has no weight-only op for {site.role}", "target onnx decodes it at load")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> dict[str, Layout]:  # noqa: D102
        out: dict[str, Layout] = {"rows": Rows(form, site.rows, site.cols)}
        if site.served(UseKind.DENSE):
            out["dense"] = Dense(form, site.view, opset)
        return out

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        lowered = Lowered()
        layout = Rows(form, site.rows, site.cols)
        names = lowered.planes["rows"] = add_planes(editor, site, layout, encoded)
        op = _Blockwise(editor, site, layout, names, lowered)
        for use in site.served(UseKind.PRODUCT):
            lower_product(editor, site, use, op.product)
        for use in site.served(UseKind.LOOKUP):
            editor.replace(use, op.lookup(use.node.input[1], use.node.output[0]))
        if site.served(UseKind.DENSE):
            lower_dense(editor, site, form, encoded, lowered)
        return lowered


class _Blockwise:
    """The nodes around one weight's planes."""

    def __init__(self, editor: ModelEditor, site: Site, layout: Rows, names: dict[str, str], lowered: Lowered) -> None:
        self.editor, self.site, self.layout, self.names, self.lowered = editor, site, layout, names, lowered
        scales = float_scales(editor, site, names["scales"], layout.stored()["scales"].elem_type)
        self.scales = self._spread(scales, (layout.rows, layout.blocks), layout.groups)

    def product(self, x: str, output: str) -> list[onnx.NodeProto]:
        """MatMulNBits, between casts when the model computes in float16."""
        self.lowered.results.append(Result(UseKind.PRODUCT, x, output))
        layout, half = self.layout, self.site.tensor.data_type == F16
        nodes = [self.editor.node(self.site, "Cast", [x], to=F32)] if half else []
        inputs = [nodes[-1].output[0] if half else x, self.names["codes"], self.scales]
        if "zero_points" in self.names:
            inputs.append(self.names["zero_points"])
        nodes.append(
            self.editor.node(
                self.site,
                "MatMulNBits",
                inputs,
                domain=MICROSOFT,
                output="" if half else output,
                K=layout.cols,
                N=layout.rows,
                bits=layout.form.bits,
                block_size=layout.block,
                accuracy_level=ACCURACY_LEVEL,
            )
        )
        if half:
            nodes.append(self.editor.node(self.site, "Cast", [nodes[-1].output[0]], output=output, to=F16))
        return nodes

    def lookup(self, indices: str, output: str) -> list[onnx.NodeProto]:
        """GatherBlockQuantized of the same codes, seen as two axes."""
        self.lowered.results.append(Result(UseKind.LOOKUP, indices, output))
        layout, editor, graph = self.layout, self.editor, self.site.graph
        shape = editor.constant(graph, f"{self.site.name}/shape", np.array([layout.rows, -1], np.int64))
        table = editor.node(self.site, "Reshape", [self.names["codes"], shape])
        editor.first(graph, [table])
        cut = layout.blocks * layout.block != layout.cols
        half = self.site.tensor.data_type == F16
        node = editor.node(
            self.site,
            "GatherBlockQuantized",
            [table.output[0], indices, self.scales, self._zero_points()],
            domain=MICROSOFT,
            output="" if cut or half else output,
            bits=layout.form.bits,
            block_size=layout.block,
            gather_axis=0,
            quantize_axis=1,
        )
        nodes = [node]
        if cut:
            ends = [
                editor.constant(graph, f"{self.site.name}/cut", np.array([v], np.int64)) for v in (0, layout.cols, -1)
            ]
            nodes.append(editor.node(self.site, "Slice", [node.output[0], *ends], output="" if half else output))
        if half:
            nodes.append(editor.node(self.site, "Cast", [nodes[-1].output[0]], output=output, to=F16))
        return nodes

    def _zero_points(self) -> str:
        """Explicit zero points: GatherBlockQuantized's default depends on the element type."""
        if "zero_points" in self.names:
            return self.names["zero_points"]
        bits = self.layout.form.bits
        byte = sum(self.layout.scaled.offset << i for i in range(0, 8, bits))
        one = self.editor.constant(self.site.graph, f"{self.site.name}/zero_point", np.full((1, 1), byte, np.uint8))
        return self._spread(one, (self.layout.rows, (self.layout.blocks * bits + 7) // 8), (1, 1))

    def _spread(self, name: str, shape: tuple[int, int], have: tuple[int, int]) -> str:
        """Broadcast side information to one value per block; folds at session creation."""
        if shape == have:
            return name
        graph = self.site.graph
        to = self.editor.constant(graph, f"{self.site.name}/shape", np.array(shape, np.int64))
        node = self.editor.node(self.site, "Expand", [name, to])
        self.editor.first(graph, [node])
        return str(node.output[0])
