"""QuantizeLinear and DequantizeLinear around the units of a placement, in a model whose weights are lowered already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxquant.activations.codes import Codes
from onnxquant.activations.placement import Quantized
from onnxquant.graph.flow import Flow
from onnxquant.graph.names import ACTIVATION

_DECODE = "DequantizeLinear"


@dataclass(frozen=True)
class Static:
    """Activations rounded to codes of fixed ranges.

    Attributes:
        codes: their type.
        tensors: which ones.
        ranges: lowest and highest value of each source.
        method: how the ranges were chosen.
        split: outputs of Gemms that give floats: their C is added after the product, in float.
        about: what else was done, for the report: balanced channels, corrected biases, kernels left in float ...
        observed: histograms of what calibration saw, by tensor, for the report alone.
    """

    codes: Codes
    tensors: tuple[Quantized, ...]
    ranges: Mapping[str, tuple[float, float]]
    method: str
    split: tuple[str, ...]
    about: Mapping[str, Any]
    observed: Mapping[str, Any] = field(default_factory=dict)

    def insert(self, proto: onnx.ModelProto) -> None:
        """Put the nodes into a model whose weights are lowered; its tensors have the names that they had before."""
        flow = Flow(proto.graph)
        sides: dict[str, tuple[str, str]] = {}
        for tensor in self.tensors:
            if tensor.source not in sides:
                scale, zero = self.codes.parameters(*self.ranges[tensor.source])
                base = tensor.source
                sides[base] = (
                    flow.add_constant(f"{base}/scale", np.asarray(scale)),
                    flow.add_constant(f"{base}/zero_point", np.asarray(zero)),
                )
            _quantize(flow, tensor, sides[tensor.source])
        for output in self.split:
            _split(flow, output)
        flow.apply()
        _keep_in_float(proto)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the file's metadata and reports."""
        sides = {s: self.codes.parameters(*r) for s, r in self.ranges.items()}
        return {
            "kind": "static",
            "type": str(self.codes.dtype),
            "symmetric": self.codes.symmetric,
            "method": self.method,
            "tensors": {
                t.name: {
                    "low": self.ranges[t.source][0],
                    "high": self.ranges[t.source][1],
                    "scale": float(sides[t.source][0]),
                    "zero_point": int(sides[t.source][1]),
                }
                for t in self.tensors
            },
            **self.about,
        }


@dataclass(frozen=True)
class Dynamic:
    """Activations rounded per call by the ops that read them: DynamicQuantizeMatMul in the place of products.

    Attributes:
        about: number of kernels, rescaled weights ..., for the report.
    """

    about: Mapping[str, Any]
    observed: Mapping[str, Any] = field(default_factory=dict)

    def insert(self, proto: onnx.ModelProto) -> None:
        """Nothing is to be put in: the weights' target did it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the file's metadata and reports."""
        return {"kind": "dynamic", "type": "uint8", "symmetric": False, **self.about}


def _marked(op: str, inputs: list[str], output: str, name: str) -> onnx.NodeProto:
    node = onnx.helper.make_node(op, inputs, [output], name=name)
    node.metadata_props.add(key=ACTIVATION, value=op)
    return node


def _quantize(flow: Flow, tensor: Quantized, side: tuple[str, str]) -> None:
    name, maker = tensor.name, flow.producer(tensor.name)
    readers = [n for n in flow.consumers(name) if tensor.made or n.output[0] in tensor.readers]
    codes = flow.fresh(f"{name}/quantized")
    if tensor.made and not flow.is_private(name):
        # Callers and nested graphs know the name: it stays with the values that everybody reads.
        assert maker is not None
        source, result = flow.fresh(f"{name}/exact"), name
        flow.rename_output(maker, name, source)
    else:
        source, result = name, flow.fresh(f"{name}/dequantized")
    for reader in readers:
        for position, read in enumerate(reader.input):
            if read == name:
                flow.connect(reader, position, result)
    new = [
        _marked("QuantizeLinear", [source, *side], codes, flow.fresh(f"{name}/QuantizeLinear")),
        _marked("DequantizeLinear", [codes, *side], result, flow.fresh(f"{name}/DequantizeLinear")),
    ]
    flow.insert_after(maker, new)


def _keep_in_float(proto: onnx.ModelProto) -> None:
    """A Clip that clips nothing before kernels that stay in float among codes.

    Between a DequantizeLinear and a QuantizeLinear, ONNX Runtime (its WeightBiasQuantization) rounds the float weights of
    Conv, ConvTranspose and Gemm to 8 bits by itself when a session is created.
    """
    flow = Flow(proto.graph)
    for node in list(proto.graph.node):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or not _leads_to_codes(flow, node):
            continue
        source, weight = (flow.producer(name) for name in node.input[:2])
        if source is None or source.op_type != _DECODE or (weight is not None and weight.op_type == _DECODE):
            continue
        scale = flow.constant(source.input[1])
        assert scale is not None
        lowest = np.finfo(onnx.helper.tensor_dtype_to_np_dtype(scale.data_type)).min
        clipped = flow.fresh(f"{node.input[0]}/as_it_is")
        least = flow.add_constant(f"{clipped}/least", np.asarray(lowest))
        clip = onnx.helper.make_node("Clip", [node.input[0], least], [clipped], name=clipped)
        clip.metadata_props.add(key=ACTIVATION, value="Clip")
        flow.connect(node, 0, clipped)
        flow.insert_after(source, [clip])
    flow.apply()


def _leads_to_codes(flow: Flow, node: onnx.NodeProto) -> bool:
    reader = flow.single_consumer(node.output[0])
    while reader is not None and reader.op_type in ("Relu", "Clip", "LeakyRelu"):
        reader = flow.single_consumer(reader.output[0])
    return reader is not None and reader.op_type == "QuantizeLinear"


def _split(flow: Flow, output: str) -> None:
    """Gemm with C -> Gemm, Add: ONNX Runtime has an integer Gemm with float output, but not with a float C."""
    gemm = flow.producer(output)
    assert gemm is not None
    bias = gemm.input[2]
    flow.connect(gemm, 2, "")
    del gemm.input[2:]
    product = flow.fresh(f"{output}/product")
    flow.rename_output(gemm, output, product)
    flow.insert_after(gemm, [onnx.helper.make_node("Add", [product, bias], [output], name=flow.fresh(f"{output}/Add"))])
