"""QuantizeLinear and DequantizeLinear around the units of a placement, in a model whose weights are lowered already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.activations.op_kinds import MOVES
from onnxquant.activations.placement import QuantizedTensor
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.names import ACTIVATION
from onnxquant.observers.codes import Codes

_DECODE = "DequantizeLinear"


@dataclass(frozen=True)
class _Parameters:
    """Names of the constants with the scale and the zero point of a source."""

    scale: str
    zero_point: str


@dataclass(frozen=True)
class NodeForms:
    """Nodes to write in another form, so that ONNX Runtime takes the integer kernel beside them.

    Attributes:
        split_gemms: outputs of Gemms that return floats: their C is added after the product, in float.
        sums: outputs of Adds to write as Sum, which ONNX Runtime does not join with the product before it.
    """

    split_gemms: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()


def insert_conversions(
    proto: onnx.ModelProto,
    codes: Codes,
    tensors: Iterable[QuantizedTensor],
    ranges: Mapping[str, tuple[float, float]],
    forms: NodeForms,
) -> None:
    """Insert conversions to codes and back, in place.

    Args:
        proto: a model whose weights are lowered; its tensors have the names that they had before.
        codes: type of the codes.
        tensors: the tensors to quantize.
        ranges: lowest and highest value of each source.
        forms: other forms of nodes around kernels.
    """
    editor = GraphEditor(proto.graph)
    parameters: dict[str, _Parameters] = {}
    for tensor in tensors:
        if tensor.produced:
            _widen_clips(editor, tensor.name, codes.bounds(*ranges[tensor.source]))
        if tensor.source not in parameters:
            scale, zero = codes.parameters(*ranges[tensor.source])
            parameters[tensor.source] = _Parameters(
                editor.add_constant(f"{tensor.source}/scale", np.asarray(scale)),
                editor.add_constant(f"{tensor.source}/zero_point", np.asarray(zero)),
            )
        _quantize(editor, tensor, parameters[tensor.source])
    for output in forms.split_gemms:
        _split_gemm(editor, output)
    for output in forms.sums:
        if (add := editor.producer(output)) is not None:
            add.op_type = "Sum"
    editor.apply()
    _keep_in_float(proto)
    _shield_nested_graphs(proto)


def exact_name(name: str) -> str:
    """Name of the values before rounding of a tensor that callers or nested graphs know by its name."""
    return f"{name}/exact"


def _marked(op: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    node = onnx.helper.make_node(op, inputs, [output], name=name)
    node.metadata_props.add(key=ACTIVATION, value=op)
    return node


def _quantize(editor: GraphEditor, tensor: QuantizedTensor, parameters: _Parameters) -> None:
    name, producer = tensor.name, editor.producer(tensor.name)
    readers = [n for n in editor.consumers(name) if tensor.produced or n.output[0] in tensor.readers]
    codes = editor.names.fresh(f"{name}/quantized")
    if producer is not None and tensor.produced and not editor.is_private(name):
        # Callers and nested graphs read this name: it stays with the values after rounding.
        source, result = editor.names.fresh(exact_name(name)), name
        editor.rename_output(producer, name, source)
    else:
        source, result = name, editor.names.fresh(f"{name}/dequantized")
    for reader in readers:
        for position, read in enumerate(reader.input):
            if read == name:
                editor.connect(reader, position, result)
    inputs = [parameters.scale, parameters.zero_point]
    conversions = [
        _marked("QuantizeLinear", [source, *inputs], codes, editor.names.fresh(f"{name}/QuantizeLinear")),
        _marked("DequantizeLinear", [codes, *inputs], result, editor.names.fresh(f"{name}/DequantizeLinear")),
    ]
    editor.insert_after(producer, conversions)


def _widen_clips(editor: GraphEditor, name: str, bounds: tuple[float, float]) -> None:
    """Let the Clips right before a tensor pass all values that codes stand for: only such a Clip does ONNX Runtime drop.

    A zero point is a whole number, so that codes reach up to half a step beyond the range that they were chosen for.
    """
    node = editor.producer(name)
    while node is not None and node.op_type in ("Relu", "Clip"):
        for position, bound, wider in ((1, bounds[0], min), (2, bounds[1], max)) if node.op_type == "Clip" else ():
            tensor = editor.constant(node.input[position]) if len(node.input) > position else None
            if tensor is None:
                continue
            value = onnx.numpy_helper.to_array(tensor)
            if (passed := wider(float(value.reshape(-1)[0]), bound)) != float(value.reshape(-1)[0]):
                editor.set_constant(node, position, np.full_like(value, passed))
        node = editor.producer(node.input[0])


def _keep_in_float(proto: onnx.ModelProto) -> None:
    """Insert a Clip that clips nothing before kernels that stay in float among codes, in place.

    Between a DequantizeLinear and a QuantizeLinear, ONNX Runtime (its WeightBiasQuantization) rounds the float weights of
    Conv, ConvTranspose and Gemm to 8 bits by itself when a session is created.
    """
    editor = GraphEditor(proto.graph)
    for node in list(proto.graph.node):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or not _leads_to_codes(editor, node):
            continue
        source, weight = (editor.producer(name) for name in node.input[:2])
        if source is None or source.op_type != _DECODE or (weight is not None and weight.op_type == _DECODE):
            continue
        scale = editor.constant(source.input[1])
        if scale is None:  # a model's own conversion, whose scale is computed
            continue
        _clip_nothing(editor, node, onnx.helper.tensor_dtype_to_np_dtype(scale.data_type))
    editor.apply()


def _shield_nested_graphs(proto: onnx.ModelProto) -> None:
    """Insert a Clip that clips nothing before moves of decoded values that nested graphs read, in place.

    ONNX Runtime puts the DequantizeLinear behind such a node, and breaks down where a nested graph reads it there.
    """
    editor = GraphEditor(proto.graph)
    for node in list(proto.graph.node):
        source = editor.producer(node.input[0]) if node.input else None
        if node.op_type in MOVES and editor.captured.intersection(node.output):
            while source is not None and source.op_type in MOVES:
                source = editor.producer(source.input[0])
            if source is not None and source.op_type == _DECODE:
                _clip_nothing(editor, node, np.dtype(np.float32))
    editor.apply()


def _clip_nothing(editor: GraphEditor, node: onnx.NodeProto, dtype: np.dtype[np.floating]) -> None:
    """Insert a Clip that clips nothing before a node."""
    clipped = editor.names.fresh(f"{node.input[0]}/as_it_is")
    least = editor.add_constant(f"{clipped}/least", np.asarray(np.finfo(dtype).min))
    clip = _marked("Clip", [node.input[0], least], clipped, clipped)
    editor.connect(node, 0, clipped)
    editor.insert_before(node, [clip])


def _leads_to_codes(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    reader = editor.single_consumer(node.output[0])
    while reader is not None and reader.op_type in ("Relu", "Clip", "LeakyRelu"):
        reader = editor.single_consumer(reader.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _split_gemm(editor: GraphEditor, output: str) -> None:
    """Split a Gemm with C into Gemm and Add: ONNX Runtime's integer Gemm with float output takes no float C."""
    gemm = editor.producer(output)
    if gemm is None or len(gemm.input) < 3 or not gemm.input[2]:
        return
    bias = gemm.input[2]
    editor.connect(gemm, 2, "")
    del gemm.input[2:]
    product = editor.names.fresh(f"{output}/product")
    editor.rename_output(gemm, output, product)
    editor.insert_after(
        gemm, [onnx.helper.make_node("Add", [product, bias], [output], name=editor.names.fresh(f"{output}/Add"))]
    )
