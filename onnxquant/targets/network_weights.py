"""Weights and biases of the convolutions of integer networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.names import SITE
from onnxquant.graph.node import attribute, is_op
from onnxquant.targets.network_ends import DECODE, CodeReader, Decoded


@dataclass(frozen=True)
class Weight:
    """A weight of int8 codes without zero points, with one scale or one for each output channel.

    Attributes:
        name: name of the codes.
        codes: the codes [output channels, input channels of a group, height, width].
        scales: name of the scales.
        nodes: the nodes that decode it.
    """

    name: str
    codes: onnx.TensorProto
    scales: str
    nodes: tuple[onnx.NodeProto, ...]


@dataclass(frozen=True)
class Bias:
    """A bias of floats, or of int32 codes on the scale of the products.

    Attributes:
        name: its name, empty where there is none.
        nodes: the nodes that decode it.
    """

    name: str = ""
    nodes: tuple[onnx.NodeProto, ...] = ()


@dataclass(frozen=True)
class _Stored:
    """A constant with its name, and the nodes that make a copy of it."""

    name: str
    tensor: onnx.TensorProto
    nodes: tuple[onnx.NodeProto, ...]


def weight_of(reader: CodeReader, convolution: onnx.NodeProto) -> Weight | None:
    """The weight of a convolution; None where it has another form."""
    node = reader.editor.producer(convolution.input[1])
    if node is None or not is_op(node, DECODE):
        return None
    codes, scales = _stored(reader, node.input[0]), reader.editor.constant(node.input[1])
    if codes is None or scales is None or scales.data_type != onnx.TensorProto.FLOAT:
        return None
    if codes.tensor.data_type != onnx.TensorProto.INT8 or len(codes.tensor.dims) != 4:
        return None
    channels = [codes.tensor.dims[0]]
    if list(scales.dims) not in ([], [1], channels):
        return None
    if list(scales.dims) == channels and attribute(node, "axis", 1) not in (0, -4):
        return None
    nodes = [*codes.nodes, node]
    if len(node.input) > 2 and node.input[2]:
        zeros = _stored(reader, node.input[2])
        if zeros is None or not _are_zero(zeros.tensor, node):
            return None
        nodes = [*zeros.nodes, *nodes]
    return Weight(codes.name, codes.tensor, node.input[1], tuple(nodes))


def bias_of(reader: CodeReader, convolution: onnx.NodeProto, x: Decoded, weight: Weight) -> Bias | None:
    """The bias of a convolution; None where it is no constant, or on another scale than the products."""
    if len(convolution.input) < 3 or not convolution.input[2]:
        return Bias()
    bias, elem_type = Bias(convolution.input[2]), onnx.TensorProto.FLOAT
    tensor = reader.editor.constant(bias.name)
    if tensor is None:
        decoder = reader.editor.producer(bias.name)
        if decoder is None or not is_op(decoder, DECODE) or not _is_on_products(reader, decoder, x, weight):
            return None
        bias, elem_type = Bias(decoder.input[0], (decoder,)), onnx.TensorProto.INT32
        tensor = reader.editor.constant(bias.name)
    if tensor is None or tensor.data_type != elem_type or list(tensor.dims) != [weight.codes.dims[0]]:
        return None
    return bias


def _stored(reader: CodeReader, name: str) -> _Stored | None:
    """A constant, also behind Reshapes to its own shape: a weight that several nodes decode has a copy for each."""
    nodes: list[onnx.NodeProto] = []
    while (tensor := reader.editor.constant(name)) is None:
        node = reader.editor.producer(name)
        if node is None or not is_op(node, "Reshape"):
            return None
        nodes.insert(0, node)
        name = node.input[0]
    for node in nodes:
        shape = reader.values(node.input[1])
        if shape is None or shape.tolist() != list(tensor.dims):
            return None
    return _Stored(name, tensor, tuple(nodes))


def _are_zero(zeros: onnx.TensorProto, decoder: onnx.NodeProto) -> bool:
    """Whether zero points are all zero. Those of a weight that was lowered are, though their bytes may lie elsewhere."""
    if zeros.data_location == onnx.TensorProto.EXTERNAL:
        return any(entry.key == SITE for entry in decoder.metadata_props)
    return not onnx.numpy_helper.to_array(zeros).any()


def _is_on_products(reader: CodeReader, decoder: onnx.NodeProto, x: Decoded, weight: Weight) -> bool:
    """Whether the codes of a bias have the scale of the products that they are added to, and no zero points."""
    own, of_weight = reader.values(decoder.input[1]), reader.values(weight.scales)
    if own is None or of_weight is None or own.shape not in ((), (1,), (weight.codes.dims[0],)):
        return False
    zeros = reader.values(decoder.input[2]) if len(decoder.input) > 2 and decoder.input[2] else np.zeros(1)
    if zeros is None or zeros.any() or (own.size > 1 and attribute(decoder, "axis", 1) not in (0, -1)):
        return False
    return bool(np.allclose(own, x.scale.step * of_weight, rtol=1e-5, atol=0))
