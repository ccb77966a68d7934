"""QuantizeLinear and DequantizeLinear around the units of a placement, in a model whose weights are lowered already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.activations.codes import Codes
from onnxquant.activations.placement import QuantizedTensor
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.names import ACTIVATION

_DECODE = "DequantizeLinear"


@dataclass(frozen=True)
class _Parameters:
    """Names of the constants with the scale and the zero point of a source."""

    scale: str
    zero_point: str


def insert_conversions(
    proto: onnx.ModelProto,
    codes: Codes,
    tensors: Iterable[QuantizedTensor],
    ranges: Mapping[str, tuple[float, float]],
    split_gemms: Iterable[str],
) -> None:
    """Insert conversions to codes and back, in place.

    Args:
        proto: a model whose weights are lowered; its tensors have the names that they had before.
        codes: type of the codes.
        tensors: the tensors to quantize.
        ranges: lowest and highest value of each source.
        split_gemms: outputs of Gemms that return floats.
    """
    editor = GraphEditor(proto.graph)
    parameters: dict[str, _Parameters] = {}
    for tensor in tensors:
        if tensor.source not in parameters:
            scale, zero = codes.parameters(*ranges[tensor.source])
            parameters[tensor.source] = _Parameters(
                editor.add_constant(f"{tensor.source}/scale", np.asarray(scale)),
                editor.add_constant(f"{tensor.source}/zero_point", np.asarray(zero)),
            )
        _quantize(editor, tensor, parameters[tensor.source])
    for output in split_gemms:
        _split_gemm(editor, output)
    editor.apply()
    _keep_in_float(proto)


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
        source, result = editor.names.fresh(f"{name}/exact"), name
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
        lowest = np.finfo(onnx.helper.tensor_dtype_to_np_dtype(scale.data_type)).min
        clipped = editor.names.fresh(f"{node.input[0]}/as_it_is")
        least = editor.add_constant(f"{clipped}/least", np.asarray(lowest))
        clip = _marked("Clip", [node.input[0], least], clipped, clipped)
        editor.connect(node, 0, clipped)
        editor.insert_after(source, [clip])
    editor.apply()


def _leads_to_codes(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    reader = editor.single_consumer(node.output[0])
    while reader is not None and reader.op_type in ("Relu", "Clip", "LeakyRelu"):
        reader = editor.single_consumer(reader.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _split_gemm(editor: GraphEditor, output: str) -> None:
    """Split a Gemm with C into Gemm and Add: ONNX Runtime's integer Gemm with float output takes no float C."""
    gemm = editor.producer(output)
    if gemm is None:
        return
    bias = gemm.input[2]
    editor.connect(gemm, 2, "")
    del gemm.input[2:]
    product = editor.names.fresh(f"{output}/product")
    editor.rename_output(gemm, output, product)
    editor.insert_after(
        gemm, [onnx.helper.make_node("Add", [product, bias], [output], name=editor.names.fresh(f"{output}/Add"))]
    )
