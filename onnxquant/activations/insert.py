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
    flow = GraphEditor(proto.graph)
    parameters: dict[str, _Parameters] = {}
    for tensor in tensors:
        if tensor.source not in parameters:
            scale, zero = codes.parameters(*ranges[tensor.source])
            parameters[tensor.source] = _Parameters(
                flow.add_constant(f"{tensor.source}/scale", np.asarray(scale)),
                flow.add_constant(f"{tensor.source}/zero_point", np.asarray(zero)),
            )
        _quantize(flow, tensor, parameters[tensor.source])
    for output in split_gemms:
        _split_gemm(flow, output)
    flow.apply()
    _keep_in_float(proto)


def _marked(op: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    node = onnx.helper.make_node(op, inputs, [output], name=name)
    node.metadata_props.add(key=ACTIVATION, value=op)
    return node


def _quantize(flow: GraphEditor, tensor: QuantizedTensor, parameters: _Parameters) -> None:
    name, producer = tensor.name, flow.producer(tensor.name)
    readers = [n for n in flow.consumers(name) if tensor.produced or n.output[0] in tensor.readers]
    codes = flow.names.fresh(f"{name}/quantized")
    if producer is not None and tensor.produced and not flow.is_private(name):
        # Callers and nested graphs read this name: it stays with the values after rounding.
        source, result = flow.names.fresh(f"{name}/exact"), name
        flow.rename_output(producer, name, source)
    else:
        source, result = name, flow.names.fresh(f"{name}/dequantized")
    for reader in readers:
        for position, read in enumerate(reader.input):
            if read == name:
                flow.connect(reader, position, result)
    inputs = [parameters.scale, parameters.zero_point]
    conversions = [
        _marked("QuantizeLinear", [source, *inputs], codes, flow.names.fresh(f"{name}/QuantizeLinear")),
        _marked("DequantizeLinear", [codes, *inputs], result, flow.names.fresh(f"{name}/DequantizeLinear")),
    ]
    flow.insert_after(producer, conversions)


def _keep_in_float(proto: onnx.ModelProto) -> None:
    """Insert a Clip that clips nothing before kernels that stay in float among codes, in place.

    Between a DequantizeLinear and a QuantizeLinear, ONNX Runtime (its WeightBiasQuantization) rounds the float weights of
    Conv, ConvTranspose and Gemm to 8 bits by itself when a session is created.
    """
    flow = GraphEditor(proto.graph)
    for node in list(proto.graph.node):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or not _leads_to_codes(flow, node):
            continue
        source, weight = (flow.producer(name) for name in node.input[:2])
        if source is None or source.op_type != _DECODE or (weight is not None and weight.op_type == _DECODE):
            continue
        scale = flow.constant(source.input[1])
        if scale is None:  # a model's own conversion, whose scale is computed
            continue
        lowest = np.finfo(onnx.helper.tensor_dtype_to_np_dtype(scale.data_type)).min
        clipped = flow.names.fresh(f"{node.input[0]}/as_it_is")
        least = flow.add_constant(f"{clipped}/least", np.asarray(lowest))
        clip = _marked("Clip", [node.input[0], least], clipped, clipped)
        flow.connect(node, 0, clipped)
        flow.insert_after(source, [clip])
    flow.apply()


def _leads_to_codes(flow: GraphEditor, node: onnx.NodeProto) -> bool:
    reader = flow.single_consumer(node.output[0])
    while reader is not None and reader.op_type in ("Relu", "Clip", "LeakyRelu"):
        reader = flow.single_consumer(reader.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _split_gemm(flow: GraphEditor, output: str) -> None:
    """Split a Gemm with C into Gemm and Add: ONNX Runtime's integer Gemm with float output takes no float C."""
    gemm = flow.producer(output)
    if gemm is None:
        return
    bias = gemm.input[2]
    flow.connect(gemm, 2, "")
    del gemm.input[2:]
    product = flow.names.fresh(f"{output}/product")
    flow.rename_output(gemm, output, product)
    flow.insert_after(
        gemm, [onnx.helper.make_node("Add", [product, bias], [output], name=flow.names.fresh(f"{output}/Add"))]
    )
