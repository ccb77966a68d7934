"""Comparison of two models' graphs: inputs, outputs, opsets, operators and hashes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import onnx

from onnxquant import runtime
from onnxquant.artifact.hashes import check_hashes
from onnxquant.artifact.records import records
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.seal import is_sealed
from onnxquant.graph.traverse import graphs, nodes
from onnxquant.validation.proof import BothSides, Problem, Proof, Structure

# Ops that read or make codes, of onnx and of onnxruntime.
_CODES = re.compile("^QLinear|QuantizeLinear$|Integer$|NBits$|Bnb4$|^DynamicQuantize|^QGemm$|^QAttention$|^QMoE$")


def compare_structure(proof: Proof, original: Document, quantized: Document) -> None:
    """Add the structure, and its problems and notes, to a proof."""
    if damaged := [name for name, good in check_hashes(quantized).items() if not good]:
        proof.problems.append(Problem(f"{len(damaged)} tensors are not as they were written, {damaged[0]!r} first"))
    if is_sealed(quantized.proto) is False:
        proof.problems.append(Problem("the metadata is not as it was written"))
    constants = {t.name for t in original.proto.graph.initializer}
    _compare_signatures(proof, "input", (original.proto.graph.input, quantized.proto.graph.input), constants)
    _compare_signatures(proof, "output", (original.proto.graph.output, quantized.proto.graph.output), constants)
    encoded = len(records(quantized.proto))
    before, after = runtime.histogram(original.proto), runtime.histogram(quantized.proto)
    proof.structure = Structure(
        inputs=len(original.proto.graph.input) - len(constants & {i.name for i in original.proto.graph.input}),
        outputs=len(original.proto.graph.output),
        opset=BothSides(original.opset, quantized.opset),
        nodes=BothSides(sum(before.values()), sum(after.values())),
        stored_tensors=BothSides(_stored_tensors(original), _stored_tensors(quantized)),
        weights_encoded=encoded,
        added_ops=_surplus(after, before),
        removed_ops=_surplus(before, after),
        explained_by=f"{encoded} weights lowered by onnxquant" if encoded else "not a file of onnxquant",
    )


def refuse_unrelated(original: Document, quantized: Document) -> None:
    """Refuse models that cannot be an original and its quantized model: swapped, or with other inputs or outputs.

    Raises:
        ModelError: they are such models; the message says what to do, or what differs.
    """
    if _is_quantized(original) and not _is_quantized(quantized):
        raise ModelError(
            f"{original.name} is quantized and {quantized.name} is not: swap them, the original comes first"
        )
    differences = [_contradiction(original, quantized, kind) for kind in ("input", "output")]
    if any(differences):
        raise ModelError(f"{quantized.name} is not made of {original.name}: {'; '.join(filter(None, differences))}")


def refuse_other_inputs(first: Document, other: Document) -> None:
    """Refuse a model that cannot run on samples of another one.

    Raises:
        ModelError: its inputs have other names or shapes; the message lists both.
    """
    if difference := _contradiction(first, other, "input"):
        raise ModelError(f"{other.name} cannot run on the samples of {first.name}: {difference}")


def _contradiction(original: Document, other: Document, kind: str) -> str:
    """Inputs or outputs of two models where no array can be both; empty where they fit."""
    constants = {t.name for document in (original, other) for t in document.proto.graph.initializer}
    one, two = (
        {v.name: v for v in getattr(document.proto.graph, kind) if v.name not in constants}
        for document in (original, other)
    )
    if one.keys() == two.keys() and not any(_contradict(one[name], two[name]) for name in one):
        return ""
    return f"{kind}s are {_listed(two)}, expected {_listed(one)}"


def _is_quantized(document: Document) -> bool:
    """Whether a model holds codes, of ours or of anybody's."""
    return bool(records(document.proto)) or any(_CODES.search(node.op_type) for node in nodes(document.proto))


def _contradict(one: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether no array can be both values."""
    shapes = [v.type.tensor_type.shape.dim for v in (one, other) if v.type.tensor_type.HasField("shape")]
    if len(shapes) < 2:
        return False
    fixed = [[d.dim_value for d in shape] for shape in shapes]
    return len(fixed[0]) != len(fixed[1]) or any(a and b and a != b for a, b in zip(*fixed, strict=True))


def _listed(values: Mapping[str, onnx.ValueInfoProto]) -> str:
    """Names and shapes of values."""
    texts = []
    for name, value in values.items():
        dims = [
            d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in value.type.tensor_type.shape.dim
        ]
        texts.append(f"{name} [{', '.join(map(str, dims))}]")
    return ", ".join(texts) or "none"


def _surplus(ops: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """Ops that one graph has more of than another, with the difference."""
    return {op: n - others.get(op, 0) for op, n in ops.items() if n > others.get(op, 0)}


def _compare_signatures(
    proof: Proof, kind: str, sides: Iterable[Iterable[onnx.ValueInfoProto]], constants: set[str]
) -> None:
    """Add problems and notes about inputs or outputs whose names, types or shapes differ."""
    original, quantized = ([v for v in side if v.name not in constants] for side in sides)
    before, after = _signature(original), _signature(quantized)
    in_float = _signature(_in_float(v) for v in quantized)
    if list(before) != list(after):
        proof.problems.append(Problem(f"{kind}s are {list(after)}, expected {list(before)}"))
    for name in before.keys() & after.keys():
        if before[name] != after[name] and before[name] == in_float[name]:
            proof.notes.append(f"{kind} {name!r} is float16 now")
        elif before[name] != after[name]:
            proof.problems.append(Problem(f"type or shape of {kind} {name!r} changed"))


def _signature(values: Iterable[onnx.ValueInfoProto]) -> dict[str, bytes]:
    """Serialized type and shape of each value."""
    return {v.name: v.type.SerializeToString(deterministic=True) for v in values}


def _in_float(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """An input or output with float32 in the place of float16."""
    out = onnx.ValueInfoProto()
    out.CopyFrom(value)
    if out.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        out.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return out


def _stored_tensors(document: Document) -> int:
    return sum(len(g.initializer) for g in graphs(document.proto.graph))
