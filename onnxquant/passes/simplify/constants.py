"""Folding of constants, and removal of nodes that change nothing or that nothing reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx.shape_inference
from numpy.typing import NDArray

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import STANDARD, attribute, is_op
from onnxquant.graph.shapes import UNKNOWN, Known, infer, outlined
from onnxquant.graph.traverse import subgraphs
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.prepare.evaluation import NEVER_FOLDED, computation, evaluate, model_of, renamed

# A result up to this size is always kept; a larger one only where it replaces as many bytes, up to the second size:
# results are kept in memory, unlike the mapped tensors that they come from.
SMALL, LARGE = 64 << 10, 16 << 20
_ROUNDS = 8
_KEPT = NEVER_FOLDED | {"Constant", "Dropout", "Identity"}


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Folds nodes of constant inputs, and removes nodes without effect.

    1. A node that does nothing is bypassed: Identity, Dropout, and Cast, Concat, Flatten, Transpose, Reshape or Pad that
       change neither type nor shape.

           Relu(Identity(x))                  ->   Relu(x)

    2. A node of constant inputs becomes its value, where the model does not grow by more than 64 KiB. Nodes that compute the
       same become one value.

           Reshape(x, Concat(c1, c2))         ->   Reshape(x, c)

    3. Shape, and Gather from a Shape, of lengths that are known become their values.
    4. A node of a known domain that nothing reads is removed.
    """

    name = "fold-constants"
    summary = "computes what does not depend on the inputs, and removes nodes without effect"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        counts: Counter[str] = Counter()
        for _ in range(_ROUNDS):
            known = infer(document)
            before = counts.total()
            for editor in graph_editors(document):
                _fold_graph(document, editor, known, counts)
                editor.apply()
            if counts.total() == before:
                break
        parts = [
            f"{counts[what]} {what}" for what in ("folded", "without effect removed", "unread removed") if counts[what]
        ]
        return PassResult(True, ("nodes: " + ", ".join(parts),)) if parts else PassResult()


def _fold_graph(document: Document, editor: GraphEditor, known: dict[str, Known], counts: Counter[str]) -> None:
    """Fold the constants of one graph, and count the nodes that go."""
    folded: dict[bytes, str] = {}  # the first result by computation: what is computed twice is stored once
    for node in list(editor.graph.node):
        if _has_no_effect(document, editor, node, known):
            if editor.bypass(node, node.input[0]):
                counts["without effect removed"] += 1
            continue
        same = folded.get(key := computation(node))
        if same is not None and editor.bypass(node, same):
            counts["folded"] += 1
        elif (values := _values(document, editor, node, known)) is not None:
            editor.become_constants(node, values)
            counts["folded"] += 1
            if len(node.output) == 1:
                folded[key] = node.output[0]
    for node in reversed(list(editor.graph.node)):
        if not editor.is_removed(node) and _is_unread(editor, node):
            editor.remove(node)
            counts["unread removed"] += 1


def _is_unread(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    # An op of an unknown domain may do something else than make its outputs.
    pure = node.domain in (*STANDARD, MICROSOFT)
    return pure and bool(node.output) and not any(editor.is_read(name) for name in node.output if name)


# --- nodes without effect


def _has_no_effect(document: Document, editor: GraphEditor, node: onnx.NodeProto, known: dict[str, Known]) -> bool:
    """Whether the first output always equals the first input, and is the only one that matters."""
    if node.domain not in STANDARD or not node.input or not node.input[0] or not node.output or not node.output[0]:
        return False
    if any(editor.is_read(name) for name in node.output[1:] if name):
        return False
    source = known.get(node.input[0], UNKNOWN)
    match node.op_type:
        case "Identity":
            return True
        case "Dropout":
            return len(node.input) < 3 or not node.input[2] or _is_all(document, editor, node.input[2], 0)
        case "Cast":
            return bool(source.elem_type) and attribute(node, "to") == source.elem_type
        case "Concat":
            return len(node.input) == 1
        case "Flatten":
            return source.rank == 2 and attribute(node, "axis", 1) in (1, -1)
        case "Transpose":
            perm = attribute(node, "perm")
            return source.rank in (0, 1) if perm is None else perm == sorted(perm)
        case "Reshape":
            shape = _constant(document, editor, node.input[1])
            return shape is not None and _is_same_shape(source, shape.tolist(), bool(attribute(node, "allowzero", 0)))
        case "Pad":
            pads = attribute(node, "pads")
            return (
                not any(pads)
                if pads is not None
                else len(node.input) > 1 and _is_all(document, editor, node.input[1], 0)
            )
    return False


def _is_same_shape(source: Known, lengths: list[int], allowzero: bool) -> bool:
    """Whether Reshape to ``lengths`` keeps the shape: lengths equal one by one, at most one of them implied."""
    if source.shape is None or len(source.shape) != len(lengths):
        return False
    open_, implied = 0, lengths.count(-1)
    for length, new in zip(source.shape, lengths, strict=True):
        if new == 0 and not allowzero:
            continue
        if new == -1:
            open_ += 1
        elif length != new or new == 0:
            return False
    # What -1 stands for follows from the others, unless one of those is zero or varies to zero.
    copied = [s for s, w in zip(source.shape, lengths, strict=True) if w == 0]
    return open_ == implied <= 1 and (implied == 0 or all(length for length in copied))


def _is_all(document: Document, editor: GraphEditor, name: str, value: float) -> bool:
    values = _constant(document, editor, name)
    return values is not None and bool(np.all(values == value))


def _constant(document: Document, editor: GraphEditor, name: str) -> NDArray[Any] | None:
    tensor = editor.constant(name)
    return None if tensor is None else document.array(tensor)


# --- nodes of constant inputs


def _values(
    document: Document, editor: GraphEditor, node: onnx.NodeProto, known: dict[str, Known]
) -> list[NDArray[Any]] | None:
    """The outputs of a node whose outputs are always the same; None for a node that stays."""
    if node.domain not in STANDARD or node.op_type in _KEPT or any(name in editor.outputs for name in node.output):
        return None
    if (lengths := _lengths(document, editor, node, known)) is not None:
        return [lengths]
    inputs = {name: editor.constant(name) for name in node.input if name}
    tensors = [t for t in inputs.values() if t is not None]
    if not inputs or len(tensors) != len(inputs) or any(True for _ in subgraphs(node)):
        return None
    size = _result_size(document, node, dict(zip(inputs, tensors, strict=True)))
    replaced = sum(nbytes(t) for name, t in zip(inputs, tensors, strict=True) if editor.single_consumer(name) is node)
    if size is None or size > max(SMALL, min(replaced, LARGE)):
        return None
    return evaluate(document, [node], dict(zip(inputs, tensors, strict=True)))


def _lengths(
    document: Document, editor: GraphEditor, node: onnx.NodeProto, known: dict[str, Known]
) -> NDArray[Any] | None:
    """The output of a Shape, or of a Gather from one, where the lengths that it reads are fixed."""
    source: onnx.NodeProto | None = node
    picked = None
    if is_op(node, "Gather"):
        source, picked = editor.producer(node.input[0]), _constant(document, editor, node.input[1])
        if picked is None:
            return None
    if source is None or not is_op(source, "Shape"):
        return None
    shape = known.get(source.input[0], UNKNOWN).shape
    if shape is None:
        return None
    part = shape[attribute(source, "start", 0) : attribute(source, "end", len(shape))]
    if picked is None:
        return None if None in part else np.array(part, np.int64)
    if picked.size == 0 or picked.min() < -len(part) or picked.max() >= len(part):
        return None
    lengths = [part[i] for i in picked.reshape(-1).tolist()]
    return None if None in lengths else np.array(lengths, np.int64).reshape(picked.shape)


def _result_size(document: Document, node: onnx.NodeProto, inputs: dict[str, onnx.TensorProto]) -> int | None:
    """Bytes of a node's outputs, known before any is computed; None when they depend on values."""
    if is_op(node, "NonZero"):  # at most an index per axis and element
        shape = next(iter(inputs.values())).dims
        return 8 * max(len(shape), 1) * prod(shape)
    model = model_of(document, [node], [renamed(outlined(t), name) for name, t in inputs.items()])
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:
        return None
    sizes = []
    for output in inferred.output:
        kind = output.type.tensor_type
        if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
            return None
        dims = [int(d.dim_value) for d in kind.shape.dim]
        sizes.append(nbytes(onnx.TensorProto(data_type=kind.elem_type, dims=dims)))
    return sum(sizes)
