"""Folding of Pad nodes into the Conv or pooling that reads them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op, set_attribute
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import UNKNOWN, infer
from onnxquant.passes.base import Pass, PassResult

# A window of MaxPool sees minus infinity in padding of its own, not zero: the same for the outputs of these ops only. Edge
# padding gives the same maximum: the window always contains the original edge value.
_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Exp", "Abs", "Softmax")


@dataclass(frozen=True)
class FoldPads(Pass):
    """Makes a Pad the padding of the ops that read it, where that is the same function.

    1. A Pad of zeros on spatial axes is added to the ``pads`` of the Conv, AveragePool or MaxPool ops that read it, if each
       of them can take it. AveragePool then counts its padding. MaxPool must read values that are not negative.

           Conv(Pad(x))          ->   Conv(x) with pads

    2. A Pad of copies of the edge becomes the padding of MaxPool ops.
    3. Transposes may lie between the Pad and its readers.
    """

    name = "fold-pads"
    summary = "makes Pad nodes the padding of the Conv or pooling that reads them"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        folded = 0
        refusals: Counter[str] = Counter()
        known = infer(document)
        for editor in graph_editors(document):
            for node in [n for n in editor.graph.node if is_op(n, "Pad")]:
                refusal = _fold(document, editor, node, known.get(node.input[0], UNKNOWN).rank)
                if refusal is None:
                    folded += 1
                else:
                    refusals[refusal.reason] += 1
            editor.apply()
        notes = (f"{folded} Pad nodes folded into the ops that read them",) if folded else ()
        return PassResult(bool(folded), notes, refusals)


def _fold(document: Document, editor: GraphEditor, node: onnx.NodeProto, rank: int | None) -> Refusal | None:
    """Fold a Pad into the attributes of all its readers, through Transposes; the refusal where that is not possible."""
    pads = _pads(document, editor, node, rank)
    if isinstance(pads, Refusal):
        return pads
    name = node.output[0]
    while pads and (transpose := editor.single_consumer(name)) is not None and is_op(transpose, "Transpose"):
        perm = attribute(transpose, "perm") or list(range(len(pads) // 2))[::-1]
        name, pads = transpose.output[0], [pads[p + start] for start in (0, len(perm)) for p in perm]
    spatial = _spatial(pads)
    readers = editor.consumers(name)
    if isinstance(spatial, Refusal):
        return spatial
    if not readers or not editor.is_private(name):
        return Refusal("a caller or a nested graph reads it" if readers else "no op reads it")
    edge = attribute(node, "mode", "constant") == "edge"
    as_maximum = edge or _is_not_negative(editor, node.input[0])
    totals: list[list[int]] = []
    for reader in readers:
        if edge and not is_op(reader, "MaxPool"):
            return Refusal(f"{reader.op_type} has no padding by copies of the edge")
        total = _total_pads(reader, name, spatial, as_maximum)
        if isinstance(total, Refusal):
            return total
        totals.append(total)
    if not editor.bypass(node, node.input[0]):
        return Refusal("its output is known by name")
    for reader, total in zip(readers, totals, strict=True):
        set_attribute(reader, "auto_pad", None)
        set_attribute(reader, "pads", total)
        if is_op(reader, "AveragePool"):
            set_attribute(reader, "count_include_pad", 1)
    return None


def _pads(document: Document, editor: GraphEditor, node: onnx.NodeProto, rank: int | None) -> list[int] | Refusal:
    """Pads of all axes, begins then ends; a refusal where the node adds neither zeros nor edges."""
    mode = attribute(node, "mode", "constant")
    if mode not in ("constant", "edge"):
        return Refusal(f"it is of mode {mode}")
    if len(node.input) == 1:  # before opset 11
        pads, value = attribute(node, "pads"), attribute(node, "value", 0.0)
    else:
        tensor = editor.constant(node.input[1])
        pads = None if tensor is None else document.array(tensor).tolist()
        value = 0.0
        if len(node.input) > 2 and node.input[2] and mode == "constant":
            constant = editor.constant(node.input[2])
            value = np.nan if constant is None else float(document.array(constant).reshape(-1)[0])
    if pads is not None and len(node.input) > 3 and node.input[3]:
        pads = _of_all_axes(document, editor, node, pads, rank)
    if pads is None:
        return Refusal("its pads are not constant")
    if value != 0:
        return Refusal("it does not pad by zeros")
    return Refusal("it cuts the input") if any(p < 0 for p in pads) else [int(p) for p in pads]


def _of_all_axes(
    document: Document, editor: GraphEditor, node: onnx.NodeProto, pads: list[int], rank: int | None
) -> list[int] | None:
    """Pads of all axes from those of some (opset 18)."""
    tensor = editor.constant(node.input[3])
    if tensor is None or rank is None:
        return None
    axes, complete = document.array(tensor).tolist(), [0] * (2 * rank)
    for i, axis in enumerate(axes):
        complete[axis % rank], complete[axis % rank + rank] = pads[i], pads[i + len(axes)]
    return complete


def _spatial(pads: list[int]) -> list[int] | Refusal:
    """Pads of the spatial axes; a refusal where others are padded."""
    rank = len(pads) // 2
    if rank < 3 or any(pads[:2] + pads[rank : rank + 2]):
        return Refusal("it pads more than spatial axes")
    return [*pads[2:rank], *pads[rank + 2 :]]


def _total_pads(reader: onnx.NodeProto, name: str, pads: list[int], as_maximum: bool) -> list[int] | Refusal:
    """The pads of a reader with a Pad folded into it; a refusal where it cannot take them.

    Args:
        reader: node that reads the padded tensor.
        name: padded tensor.
        pads: pads of the spatial axes.
        as_maximum: whether the padding is never larger than the values beside it.
    """
    op = reader.op_type
    if not is_op(reader, "Conv", "AveragePool", "MaxPool"):
        return Refusal(f"{op} reads it, which is no Conv, AveragePool or MaxPool")
    if list(reader.input).count(name) != 1 or reader.input[0] != name:
        return Refusal(f"{op} reads it as a weight or bias")
    if attribute(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return Refusal(f"the {op} that reads it pads by itself")
    own = attribute(reader, "pads", [0] * len(pads)) if attribute(reader, "auto_pad", "NOTSET") == "NOTSET" else None
    own = own or [0] * len(pads)
    if len(own) != len(pads):
        return Refusal(f"the {op} that reads it has other axes")
    total = [a + b for a, b in zip(own, pads, strict=True)]
    if is_op(reader, "Conv"):
        return total
    kernel = attribute(reader, "kernel_shape")
    # A window wholly inside padding is refused by onnxruntime; one that ceil_mode adds is counted differently.
    if attribute(reader, "ceil_mode", 0) or any(p >= k for p, k in zip(total, [*kernel, *kernel], strict=True)):
        return Refusal(f"a window of the {op} that reads it could lie in the padding alone")
    if is_op(reader, "AveragePool"):
        # Zeros of a Pad are counted; padding of the pooling's own is counted only if it says so.
        counted = attribute(reader, "count_include_pad", 0) or not any(own)
        return total if counted else Refusal("the AveragePool that reads it has padding of its own")
    plain = not any(own) and len(reader.output) == 1 and max(attribute(reader, "dilations", [1])) == 1
    return total if plain and as_maximum else Refusal("the MaxPool that reads it could see the padding")


def _is_not_negative(editor: GraphEditor, name: str) -> bool:
    node = editor.producer(name)
    while node is not None and is_op(node, "Transpose"):
        node = editor.producer(node.input[0])
    return is_op(node, *_NOT_NEGATIVE)
