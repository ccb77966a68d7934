"""Layers of experts: com.microsoft.MoE with float weights, and QMoE with the codes of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from onnxquant.formats.base import Format
from onnxquant.graph.node import attribute, set_attribute
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site
from onnxquant.targets.kinds import EXPERTS_ON_CODES
from onnxquant.targets.layouts.rows import RowsLayout

# Inputs of QMoE by those of MoE: codes are followed by their scales.
_PLACES = {0: 0, 1: 1, 2: 2, 3: 4, 4: 5, 5: 7}
# Inputs of MoE that are its weights, and the third, which no kernel for CPUs takes as codes.
_WEIGHTS, _THIRD = (2, 4), 6
_BITS = (4, 8)
_ATTRIBUTES = ("expert_weight_bits", "block_size")


def refusal(node: onnx.NodeProto) -> Refusal | None:
    """The reason why no kernel for CPUs reads codes of a layer's weights; None where one does, since onnxruntime 1.23."""
    activation = attribute(node, "activation_type", "relu")
    if len(node.input) > _THIRD and node.input[_THIRD]:
        return Refusal("QMoE on CPUs has no third weight", "target onnx decodes it at load")
    if activation != "swiglu" or attribute(node, "swiglu_fusion", 0) != 1:
        return Refusal("QMoE of onnxruntime 1.23 takes interleaved swiglu alone", "target onnx decodes it at load")
    if not attribute(node, "normalize_routing_weights", 0) or attribute(node, "use_sparse_mixer", 0):
        return Refusal("QMoE weighs its experts by normalized weights alone", "target onnx decodes it at load")
    return None


def refusal_of_form(site: Site, form: Format, opset: int) -> Refusal | None:
    """The reason why QMoE cannot hold a weight in a format; None where it can."""
    layout = RowsLayout(form, site.view, opset)
    if layout.form.bits not in _BITS or layout.form.has_zero_points:
        return Refusal("QMoE takes 4 and 8 bits without zero points", "target onnx decodes others at load")
    if site.cols % layout.block or site.dtype != "float32":
        return Refusal(f"QMoE takes whole blocks of {layout.block} float32 weights", "target onnx decodes others at load")
    return None


def whole_layers(forms: Sequence[tuple[Site, Format]], opset: int) -> set[str]:
    """Names of the weights whose layer of experts has all of its weights in codes of one width and block.

    Args:
        forms: the weights that are to be read as codes, each with its format.
        opset: opset of the model.
    """
    layouts: dict[tuple[int, int], dict[int, tuple[str, int, int]]] = {}
    for site, form in forms:
        layout = RowsLayout(form, site.view, opset)
        for use in site.uses:
            layer = layouts.setdefault((id(use.graph), use.index), {})
            layer[use.input] = (site.name, layout.form.bits, layout.block)
    split = {
        name
        for layer in layouts.values()
        if set(layer) != set(_WEIGHTS) or len({(bits, block) for _, bits, block in layer.values()}) > 1
        for name, _, _ in layer.values()
    }
    return {site.name for site, _ in forms} - split


def take_codes(node: onnx.NodeProto, place: int, planes: Mapping[str, str], form: Mapping[str, int]) -> None:
    """Let a layer read a weight as codes; the first weight of the two makes a QMoE of it.

    Args:
        node: the layer.
        place: input of MoE that is the weight.
        planes: tensors of codes [experts, outputs, bytes] and scales [experts, outputs, blocks].
        form: attributes of QMoE that tell the format.
    """
    if node.op_type != EXPERTS_ON_CODES:
        inputs = [""] * (max(_PLACES[i] for i in range(len(node.input))) + 1)
        for before, name in enumerate(node.input):
            inputs[_PLACES[before]] = name
        node.input[:] = inputs
        node.op_type = EXPERTS_ON_CODES
        for name, value in form.items():
            set_attribute(node, name, value)
    while len(node.input) <= _PLACES[place] + 1:
        node.input.append("")
    node.input[_PLACES[place]], node.input[_PLACES[place] + 1] = planes["codes"], planes["scales"]


def take_floats(node: onnx.NodeProto, codes: str, weight: str) -> None:
    """Let a layer read a float weight in the place of codes; it is a MoE once it reads no codes.

    Args:
        node: the layer.
        codes: tensor of the codes.
        weight: the float weight.
    """
    place = list(node.input).index(codes)
    node.input[place], node.input[place + 1] = weight, ""
    if any(node.input[_PLACES[i] + 1] for i in _WEIGHTS):
        return
    inputs = [node.input[after] if after < len(node.input) else "" for after in _PLACES.values()]
    while not inputs[-1]:
        inputs.pop()
    node.input[:] = inputs
    node.op_type = "MoE"
    for name in _ATTRIBUTES:
        set_attribute(node, name, None)


def attributes_of(layout: RowsLayout) -> dict[str, Any]:
    """Attributes of QMoE that tell the format of its weights."""
    return dict(zip(_ATTRIBUTES, (layout.form.bits, layout.block), strict=True))
