"""Targets ``qdq`` and ``dynamic``: int8 weights beside integer activations, static and dynamic ones.

The plan picks these targets for the sites that integer activations have claimed; a rule cannot ask for them. ONNX Runtime
makes one integer kernel of DequantizeLinear (activation and weight) -> op -> QuantizeLinear, and has one operator,
DynamicQuantizeMatMul, that rounds its activations in each call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerBlock, PerTensor
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.needs import UseKind
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.sites import Site, Use
from onnxquant.graph.traverse import graphs
from onnxquant.targets.base import Lowered, Result, Target, add_planes
from onnxquant.targets.dense import read_decoded
from onnxquant.targets.kinds import LAST_DEQUANTIZE_OPSET, Activations
from onnxquant.targets.layouts.base import Layout
from onnxquant.targets.layouts.channels import ChannelsLayout, TransposedLayout
from onnxquant.targets.node_builder import GraphNodes
from onnxquant.targets.products import lower_product, take_bias

AXIS_OPSET = 13
_PLANES = ("codes", "scales", "zero_points")
_ROUNDS_AND_MULTIPLIES = "DynamicQuantizeMatMul"


def holds_int8(form: Format) -> bool:
    """Whether integer kernels can hold a format: symmetric codes of 8 bits with a scale per row or tensor."""
    if not isinstance(form, ScaledCodes) or form.permuted or form.has_zero_points:
        return False
    return form.bits == 8 and not isinstance(form.granularity, PerBlock)


class StaticIntegers(Target):
    """DequantizeLinear beside operators on integers."""

    # Files and reports name their targets: a name that was ever written stays, though the other one here is "dynamic".
    name = "qdq"
    summary = "int8 beside integer activations, fused to one kernel by onnxruntime"
    layout_types = (ChannelsLayout,)
    activations = Activations.STATIC

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_int8(form)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"integer kernels take int8 with one scale per channel or tensor, not {form.name} like this")
        if site.tensor.data_type != onnx.TensorProto.FLOAT:
            return Refusal(f"integer kernels give float32, the weight is {site.dtype}")
        if opset < AXIS_OPSET:
            return Refusal(f"DequantizeLinear has scales per channel from opset {AXIS_OPSET} on, the model has {opset}")
        if opset > LAST_DEQUANTIZE_OPSET:
            return Refusal(f"onnxruntime has no QuantizeLinear of opset {opset} yet", "dynamic activations do without")
        if any(use.via is not None for use in site.uses) or site.view.split != 1:
            return Refusal("its readers see the weight in different orders")
        if any(use.view != site.view for use in site.uses) and not isinstance(form.granularity, PerTensor):
            return Refusal("its readers see the weight in different orders, which takes one scale for all of it")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        return [ChannelsLayout(form, site.view, opset)]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = ChannelsLayout(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        nodes = GraphNodes(editor, site)
        axis: dict[str, Any] = {} if isinstance(form.granularity, PerTensor) else {"axis": layout.axis}
        results, specs, read = list[Result](), layout.specs(), dict(names)
        lookups = site.served(UseKind.LOOKUP)
        for i, use in enumerate(use for use in site.uses if use not in lookups):
            if i:
                # With session.x64quantprecision ONNX Runtime gives codes another type under a new name, which two kernels
                # that read one constant cannot both do. It folds a Reshape when a session is created: nothing is stored
                # twice. Each copy is made from the one before, as equal nodes would become one.
                for plane in ("codes", "zero_points"):
                    read[plane] = nodes.op("Reshape", read[plane], nodes.ints(*specs[plane].shape))
            decoded = nodes.op("DequantizeLinear", *[read[plane] for plane in _PLANES], **axis)
            results.append(read_decoded(editor, [use], decoded))
        nodes.insert_first()
        for use in lookups:
            rows = GraphNodes(editor, site)
            results.append(
                _look_up(rows, use, rows.op("Gather", names["codes"], use.node.input[1], axis=0), names, form)
            )
            editor.replace(use, rows.nodes)
        return Lowered({layout.name: names}, results)


def _look_up(nodes: GraphNodes, use: Use, codes: str, names: Mapping[str, str], form: Format) -> Result:
    """Add the decoding of rows that a Gather looks up; the table itself is never decoded.

    Args:
        nodes: builder of the nodes.
        use: the Gather.
        codes: codes of the rows.
        names: planes of the table.
        form: its format.
    """
    indices, output, scales = use.node.input[1], use.node.output[0], names["scales"]
    if not isinstance(form.granularity, PerTensor):
        shape = nodes.op("Concat", nodes.op("Shape", indices), nodes.ints(1), axis=0)
        scales = nodes.op("Reshape", nodes.op("Gather", scales, indices, axis=0), shape)
    nodes.op("Mul", nodes.floats(codes), scales, output=output)
    return Result(UseKind.LOOKUP, indices, output)


class DynamicIntegers(Target):
    """ONNX Runtime's operator that rounds activations in each call, to the range that they have then."""

    name = "dynamic"
    summary = "com.microsoft::DynamicQuantizeMatMul: activations rounded to uint8 per call"
    layout_types = (TransposedLayout,)
    activations = Activations.DYNAMIC

    def holds(self, form: Format) -> bool:  # noqa: D102
        return holds_int8(form)

    def check(self, site: Site, form: Format, opset: int) -> Refusal | None:  # noqa: D102
        if not self.holds(form):
            return Refusal(f"DynamicQuantizeMatMul takes int8 with one scale per channel, not {form.name} like this")
        if site.tensor.data_type != onnx.TensorProto.FLOAT:
            return Refusal(f"DynamicQuantizeMatMul computes in float32, the weight is {site.dtype}")
        if site.served(UseKind.DENSE) or not site.served(UseKind.PRODUCT):
            return Refusal("ConvInteger and the like take many times the time of static activations: weight only")
        return None

    def layouts(self, site: Site, form: Format, opset: int) -> Sequence[Layout]:  # noqa: D102
        return [TransposedLayout(form, site.view, opset)]

    def lower(self, editor: ModelEditor, site: Site, form: Format, encoded: Encoded | None) -> Lowered:  # noqa: D102
        layout = TransposedLayout(form, site.view, editor.opset)
        names = add_planes(editor, site, layout, encoded)
        lowered = Lowered({layout.name: names})
        planes = [names[plane] for plane in _PLANES]

        def product(nodes: GraphNodes, x: str, output: str, bias: str = "") -> None:
            lowered.results.append(Result(UseKind.PRODUCT, x, output, bias))
            inputs = [x, *planes, *([bias] if bias else [])]
            nodes.op(_ROUNDS_AND_MULTIPLIES, *inputs, domain=MICROSOFT, output=output)

        for use in site.served(UseKind.PRODUCT):
            joined = take_bias(editor, use, site)
            if joined is None:
                lower_product(editor, site, use, product)
            else:
                nodes = GraphNodes(editor, site)
                product(nodes, use.node.input[0], joined.output, joined.bias)
                editor.replace(use, nodes.nodes)
        for use in site.served(UseKind.LOOKUP):
            nodes = GraphNodes(editor, site)
            flat = nodes.op("Reshape", use.node.input[1], nodes.ints(-1))
            columns = nodes.op("Gather", names["codes"], flat, axis=1)
            shape = nodes.op("Concat", nodes.op("Shape", use.node.input[1]), nodes.ints(site.cols), axis=0)
            rows = nodes.op("Reshape", nodes.op("Transpose", columns, perm=[1, 0]), shape)
            lowered.results.append(_look_up(nodes, use, rows, names, form))
            editor.replace(use, nodes.nodes)
        return lowered

    def finish(self, editor: ModelEditor, lowered: Sequence[tuple[Site, Format]]) -> None:
        """Let products that read one activation share its codes: then it is rounded once, not once per product."""
        sites = {site.name: site for site, _ in lowered}
        for graph in graphs(editor.proto.graph):
            products: dict[str, list[onnx.NodeProto]] = {}
            for node in graph.node:
                if node.op_type == _ROUNDS_AND_MULTIPLIES and node.domain == MICROSOFT:
                    products.setdefault(node.input[0], []).append(node)
            for x, readers in products.items():
                site = next((sites[e.value] for e in readers[0].metadata_props if e.value in sites), None)
                if len(readers) > 1 and site is not None:
                    rounding = _share_codes(editor, site, x, readers)
                    index = next(i for i, node in enumerate(graph.node) if node is readers[0])
                    graph.node.insert(index, rounding)


def _share_codes(editor: ModelEditor, site: Site, x: str, products: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    """Let products read codes, in place; the node that rounds the activation to codes is returned.

    Args:
        editor: editor of the model.
        site: the weight of the first product.
        x: the activation.
        products: DynamicQuantizeMatMul nodes, which become MatMulIntegerToFloat.
    """
    rounding = editor.node(site, "DynamicQuantizeLinear", [x], output=editor.name(f"{x}/codes"))
    codes, scale, zero = str(rounding.output[0]), editor.name(f"{x}/scale"), editor.name(f"{x}/zero_point")
    rounding.output.extend([scale, zero])
    for node in products:
        _, weight, scales, zeros, *bias = node.input
        node.op_type, node.input[:] = "MatMulIntegerToFloat", [codes, weight, scale, scales, zero, zeros, *bias]
    return rounding
