"""Encoded weights of files that other tools made: codes behind DequantizeLinear, and in ops that take codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import NodeProto, TensorProto

from onnxquant.graph.io import nbytes
from onnxquant.graph.sites import FLOATS
from onnxquant.graph.traverse import nodes, tensors

# Inputs of the planes of one weight; None: the op has no such input.
_Places = tuple[int | None, ...]
# Names of the types of codes, with their bits.
_CODES: dict[int, tuple[str, int]] = {
    TensorProto.INT8: ("int8", 8), TensorProto.UINT8: ("uint8", 8), TensorProto.INT4: ("int4", 4),
    TensorProto.UINT4: ("uint4", 4), TensorProto.INT2: ("int2", 2), TensorProto.UINT2: ("uint2", 2),
    TensorProto.INT16: ("int16", 16), TensorProto.UINT16: ("uint16", 16), TensorProto.FLOAT8E4M3FN: ("f8_e4m3", 8),
    TensorProto.FLOAT8E5M2: ("f8_e5m2", 8), TensorProto.FLOAT4E2M1: ("f4_e2m1", 4),
}  # fmt: skip
# Ops whose codes are several to a byte: the inputs of the codes, of the scales and of the zero points, and the block where
# the node does not say it.
_PACKED = {"MatMulNBits": (1, 2, 3, 32), "GatherBlockQuantized": (0, 2, 3, 128), "MatMulBnb4": (1, 2, None, 64)}
# Ops with weights of one code to an element: for each the inputs of the codes, of their scale and of their zero point.
_WHOLE: dict[str, list[_Places]] = {
    "DequantizeLinear": [(0, 1, 2)], "MatMulInteger": [(1, None, 3)], "ConvInteger": [(1, None, 3)],
    "QLinearMatMul": [(3, 4, 5)], "QLinearConv": [(3, 4, 5)], "DynamicQuantizeMatMul": [(1, 2, 3)],
    "MatMulIntegerToFloat": [(1, 3, 5)], "QGemm": [(3, 4, 5)], "QAttention": [(1, 4, 7)],
    "DynamicQuantizeLSTM": [(1, 8, 9), (2, 10, 11)],
}  # fmt: skip


@dataclass(frozen=True)
class ForeignWeight:
    """One encoded weight.

    Attributes:
        name: tensor of its codes.
        op: op that reads them.
        format: type of the codes.
        bits: bits of a code.
        block_size: number of weights that share a scale along an axis; None: a whole channel or tensor does.
        shape: its shape.
        dtype: type of the scales.
        plane_names: tensors of its codes, scales and zero points.
        bytes: bytes of these tensors.
    """

    name: str
    op: str
    format: str
    bits: int
    block_size: int | None
    shape: list[int]
    dtype: str
    plane_names: tuple[str, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def float_bytes(self) -> int:
        """Bytes that it took in the type of its scales."""
        return self.elements * (2 if "16" in self.dtype else 8 if self.dtype == "float64" else 4)


def foreign_weights(proto: onnx.ModelProto) -> list[ForeignWeight]:
    """The encoded weights of a model, each tensor of codes once; vectors, such as biases, are none."""
    constants = {t.name: t for t in tensors(proto) if t.name}
    weights: dict[str, ForeignWeight] = {}
    for weight in _weights(proto, constants):
        if weight.name not in weights and sum(n > 1 for n in weight.shape) > 1:
            weights[weight.name] = weight
    return list(weights.values())


def _weights(proto: onnx.ModelProto, constants: Mapping[str, TensorProto]) -> Iterator[ForeignWeight]:
    for node in nodes(proto):
        weights = [_whole(node, places, constants) for places in _WHOLE.get(node.op_type, ())]
        if node.op_type in _PACKED:
            weights.append(_packed(node, constants))
        yield from (weight for weight in weights if weight is not None)


def _packed(node: NodeProto, constants: Mapping[str, TensorProto]) -> ForeignWeight | None:
    """The weight of an op that packs codes; None where they are no constant."""
    codes, scales, zeros, block = _PACKED[node.op_type]
    planes = _planes(node, (codes, scales, zeros), constants)
    if planes is None:
        return None
    attributes = {a.name: a.i for a in node.attribute}
    kind = {0: "fp4", 1: "nf4"}.get(attributes.get("quant_type", -1), "")
    stored = planes[0]
    known = _CODES.get(stored.data_type, ("uint8", 8))
    bits = 4 if kind else attributes.get("bits", 4)
    shape = [attributes["N"], attributes["K"]] if "N" in attributes else list(stored.dims)
    if "N" not in attributes and known[1] > bits:
        shape[-1] *= known[1] // bits
    return _weight(node, planes, kind or f"int{bits}", bits, attributes.get("block_size", block), shape)


def _whole(node: NodeProto, places: _Places, constants: Mapping[str, TensorProto]) -> ForeignWeight | None:
    """A weight of an op that takes a code for each element; None where they are no constant."""
    planes = _planes(node, places, constants)
    if planes is None or planes[0].data_type not in _CODES:
        return None
    name, bits = _CODES[planes[0].data_type]
    block = next((a.i for a in node.attribute if a.name == "block_size" and a.i), None)
    return _weight(node, planes, name, bits, block, list(planes[0].dims))


def _planes(
    node: NodeProto, places: _Places, constants: Mapping[str, TensorProto]
) -> list[TensorProto] | None:
    """The constants among inputs of a node, that of the codes first; None where the codes are none."""
    inputs = [node.input[p] for p in places if p is not None and p < len(node.input)]
    if not inputs or inputs[0] not in constants:
        return None
    return [constants[name] for name in inputs if name in constants]


def _weight(
    node: NodeProto, planes: list[TensorProto], form: str, bits: int, block: int | None, shape: list[int]
) -> ForeignWeight:
    dtype = next((FLOATS[p.data_type] for p in planes[1:] if p.data_type in FLOATS), "float32")
    names = tuple(p.name for p in planes)
    return ForeignWeight(
        planes[0].name, node.op_type, form, bits, block, shape, dtype, names, sum(map(nbytes, planes))
    )
