"""Per-channel scales and shifts after a linear op become part of its weight and bias.

BatchNormalization in inference is ``y = scale (x - mean) / sqrt(var + epsilon) + B`` per channel (Ioffe and Szegedy
2015, arXiv 1502.03167); exporters also write it as Mul, Add, Sub or Div by constants. With ``y = f x + t`` after
``x = W v + b`` the weight becomes ``f W`` and the bias ``f b + t``, in float64, rounded once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.flow import Flow, attribute, flows, is_op
from onnxquant.graph.io import Document
from onnxquant.graph.linear import Doubles, Linear, linear, per_channel, rounded
from onnxquant.graph.shapes import Known, infer


@dataclass(frozen=True)
class Affine:
    """A node that computes ``y = factor x + shift``, one of each per channel."""

    node: onnx.NodeProto
    factor: Doubles
    shift: Doubles

    @property
    def scales(self) -> bool:
        """Whether it does more than add."""
        return bool(np.any(self.factor != 1))


def fold_batch_norms(document: Document) -> str | None:
    """Fold BatchNormalization, and Mul, Add, Sub, Div by constants, into the linear op that they alone follow."""
    known = infer(document)
    norms = others = 0
    left: Counter[str] = Counter()
    for flow in flows(document):
        for node in list(flow.graph.node):
            op = linear(flow, node)
            chain = _followers(document, flow, op, known) if op else []
            if op and chain and _fold(document, flow, op, chain):
                found = sum(is_op(a.node, "BatchNormalization") for a in chain)
                norms, others = norms + found, others + len(chain) - found
        left.update(_why_left(flow, node) for node in flow.graph.node if _stays(flow, node))
        flow.apply()
    if not norms and not others:
        return None
    text = f"{norms} BatchNormalizations and {others} elementwise nodes folded into the linear ops before them"
    return text + "".join(f"; {n} BatchNormalizations left: {reason}" for reason, n in left.items())


def _stays(flow: Flow, node: onnx.NodeProto) -> bool:
    return is_op(node, "BatchNormalization") and not flow.is_removed(node)


def _why_left(flow: Flow, node: onnx.NodeProto) -> str:
    if _trains(node):
        return "in training mode"
    if any(flow.constant(name) is None for name in node.input[1:5]):
        return "a parameter is not constant"
    before = flow.producer(node.input[0])
    if before is None or linear(flow, before) is None:
        return f"after {before.op_type if before is not None else 'an input'}, not a linear op with a constant weight"
    if flow.single_consumer(node.input[0]) is None:
        return f"its input is read elsewhere too, after {before.op_type}"
    return f"does not fit the channels, bias or number range of the {before.op_type} before it"


def _trains(node: onnx.NodeProto) -> bool:
    # Before opset 14 more than one output meant training; spatial=0 (opset 7) has parameters per position.
    several = sum(bool(name) for name in node.output) > 1
    return several or attribute(node, "training_mode", 0) == 1 or attribute(node, "spatial", 1) == 0


def _followers(document: Document, flow: Flow, op: Linear, known: dict[str, Known]) -> list[Affine]:
    """The affine nodes after a linear op, each the only reader of the one before."""
    chain: list[Affine] = []
    name = op.node.output[0]
    output = known.get(name)
    rank = op.rank or (output.rank if output else None)
    while (node := flow.single_consumer(name)) is not None:
        affine = _normalization(document, flow, op, node, rank) or _elementwise(document, flow, op, node, name, rank)
        if affine is None:
            break
        chain.append(affine)
        name = node.output[0]
    return chain


def _normalization(document: Document, flow: Flow, op: Linear, node: onnx.NodeProto, rank: int | None) -> Affine | None:
    if not is_op(node, "BatchNormalization") or _trains(node) or rank is None or rank + op.axis != 1:
        return None
    tensors = [flow.constant(name) for name in node.input[1:5]]
    if any(t is None or list(t.dims) != [op.outputs] for t in tensors):
        return None
    scale, bias, mean, variance = (document.array(t).astype(np.float64) for t in tensors if t is not None)
    with np.errstate(divide="ignore", invalid="ignore"):  # caught by ``rounded``
        factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return Affine(node, factor, bias - mean * factor)


def _elementwise(
    document: Document, flow: Flow, op: Linear, node: onnx.NodeProto, name: str, rank: int | None
) -> Affine | None:
    if not is_op(node, "Mul", "Add", "Sub", "Div") or len(node.input) != 2:
        return None
    position = 1 if node.input[0] == name else 0
    tensor = flow.constant(node.input[position])
    values = None if tensor is None else per_channel(document.array(tensor), op.outputs, op.axis, rank)
    if values is None:
        return None
    ones, zeros = np.ones(op.outputs), np.zeros(op.outputs)
    match node.op_type:
        case "Mul":
            return Affine(node, values, zeros)
        case "Add":
            return Affine(node, ones, values)
        case "Sub":
            return Affine(node, ones, -values) if position == 1 else Affine(node, -ones, values)
    if position == 0:  # a constant divided by x is not linear
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return Affine(node, 1 / values, zeros)


def _fold(document: Document, flow: Flow, op: Linear, chain: list[Affine]) -> bool:
    """Fold a chain; False when nothing is gained or the result does not fit the weight's type."""
    is_matmul = op.node.op_type == "MatMul"
    if is_matmul and len(chain) == 1 and not chain[0].scales:
        return False  # a MatMul and its bias
    bias = op.bias(document, flow)
    if bias is None:
        return False
    factor = np.ones(op.outputs)
    with np.errstate(over="ignore", invalid="ignore"):
        for affine in chain:
            factor, bias = factor * affine.factor, bias * affine.factor + affine.shift
        weight = rounded(op.restored(op.blocks(document) * op.per_output(factor)), op.dtype)
    shift = rounded(bias, op.dtype)
    if weight is None or shift is None:
        return False
    if np.any(factor != 1):
        flow.set_constant(op.node, 1, weight)
    if not is_matmul:
        op.set_bias(flow, shift)
    keep_add = is_matmul and bool(np.any(shift))
    for affine in chain[:-1] if keep_add else chain:
        flow.take_output(op.node, affine.node)
    if keep_add:
        _become_add(flow, chain[-1].node, op.node.output[0], shift)
    return True


def _become_add(flow: Flow, node: onnx.NodeProto, name: str, values: NDArray[Any]) -> None:
    """Let a node add constants instead of what it does."""
    constant = flow.add_constant(f"{name}_bias", values)
    flow.remove(node)
    flow.insert_before(node, onnx.helper.make_node("Add", [name, constant], list(node.output), name=node.name))
