"""Target ``dynamic_lstm``: int8 weights of an LSTM whose activations are rounded in each call."""

from __future__ import annotations

from collections.abc import Sequence

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerTensor
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.needs import UseKind
from onnxquant.graph.node import attribute, is_op, set_attribute
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.base import Lowered, Result, Target, add_planes
from onnxquant.targets.integers import holds_int8
from onnxquant.targets.kinds import LSTM_ON_INTEGERS, Activations
from onnxquant.targets.layouts.base import Layout
from onnxquant.targets.layouts.channels import RecurrentLayout

# Places of the scales and zero points of the weights at inputs 1 and 2.
_SCALES = {1: 8, 2: 10}


class DynamicLayers(Target):
    """ONNX Runtime's LSTM that rounds its input once per call, and its state in each step.

    It reads both weights as codes: a plan has either both or none of them here.
    """

    name = "dynamic_lstm"
    summary = f"com.microsoft::{LSTM_ON_INTEGERS}: input and state rounded to uint8 per call"
    layout_types = (RecurrentLayout,)
    activations = Activations.DYNAMIC
    role = "recurrent"

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_int8(form) and not isinstance(getattr(form, "granularity", None), PerTensor)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"{LSTM_ON_INTEGERS} takes int8 with one scale per channel, not {form.name} like this")
        if site.dtype != "float32":
            return Refusal(f"{LSTM_ON_INTEGERS} computes in float32, the weight is {site.dtype}")
        node = site.uses[0].node
        if len(site.uses) > 1 or not is_op(node, "LSTM") or attribute(node, "layout", 0):
            return Refusal("no operator on integers reads it: it is not the weight of one LSTM alone")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        return [RecurrentLayout(form, site.view, opset)]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = RecurrentLayout(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        use, node = site.uses[0], site.uses[0].node
        graph = editor.editor(use.graph)
        graph.connect(node, use.input, names["codes"])
        graph.connect(node, _SCALES[use.input], names["scales"])
        graph.connect(node, _SCALES[use.input] + 1, names["zero_points"])
        editor.import_domain(MICROSOFT, 1)
        node.op_type, node.domain = LSTM_ON_INTEGERS, MICROSOFT
        set_attribute(node, "layout", None)
        output = next(name for name in node.output if name)
        return Lowered({layout.name: names}, [Result(UseKind.PRODUCT, node.input[0] if use.input == 1 else "", output)])
