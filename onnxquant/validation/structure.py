"""Comparison of two models' graphs: inputs, outputs, opsets, operators and hashes."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxquant import runtime
from onnxquant.artifact.hashes import check_hashes
from onnxquant.artifact.records import records
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import graphs
from onnxquant.validation.proof import BothSides, Problem, Proof, Structure


def compare_structure(proof: Proof, original: Document, quantized: Document) -> None:
    """Add the structure, and its problems and notes, to a proof."""
    if damaged := [name for name, good in check_hashes(quantized).items() if not good]:
        proof.problems.append(Problem(f"{len(damaged)} tensors are not as they were written, {damaged[0]!r} first"))
    if records(original.proto) and not records(quantized.proto):
        proof.problems.append(
            Problem("the first model is quantized by onnxquant and the second is not: are they swapped?")
        )
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


def _surplus(ops: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """Ops that one graph has more of than another, with the difference."""
    return {op: n - others.get(op, 0) for op, n in ops.items() if n > others.get(op, 0)}


def _compare_signatures(
    proof: Proof, kind: str, sides: Iterable[Iterable[onnx.ValueInfoProto]], constants: set[str]
) -> None:
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
