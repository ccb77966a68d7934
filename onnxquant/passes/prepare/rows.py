"""GatherND that takes whole rows of a constant, as exporters write an indexed tensor, as Gather."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.sites import FLOATS, MIN_ELEMENTS
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.prepare.squeeze import squeeze


@dataclass(frozen=True)
class GatherRows(Pass):
    """Makes a Gather of each GatherND that takes entries along the first axis of a weight, so that lookups can decode rows.

    1. The indices have one number for each entry: their last axis has length one, which Squeeze drops.

           GatherND(W, Unsqueeze(i, -1))   ->   Gather(W, Squeeze(Unsqueeze(i, -1)), axis=0)

    2. A GatherND with batch axes stays.
    """

    name = "gather-rows"
    summary = "makes a Gather of each GatherND that takes entries along the first axis of a weight"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        known: dict[str, Known] | None = None
        count = 0
        for editor in graph_editors(document):
            for node in [node for node in editor.nodes if _is_candidate(editor, node)]:
                known = infer(document) if known is None else known
                if _has_one_number(node.input[1], known):
                    _gather(editor, node, document.opset, known)
                    count += 1
            editor.apply()
        return PassResult(True, (f"{count} GatherND take rows by Gather",)) if count else PassResult()


def _is_candidate(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether a node takes entries of a weight by indices that are computed."""
    if not is_op(node, "GatherND") or attribute(node, "batch_dims", 0):
        return False
    weight = editor.constant(node.input[0])
    if weight is None or weight.data_type not in FLOATS or len(weight.dims) < 2:
        return False
    return prod(weight.dims) >= MIN_ELEMENTS and editor.constant(node.input[1]) is None


def _has_one_number(indices: str, known: Mapping[str, Known]) -> bool:
    shape = known.get(indices, UNKNOWN).shape
    return shape is not None and len(shape) > 0 and shape[-1] == 1


def _gather(editor: GraphEditor, node: onnx.NodeProto, opset: int, known: Mapping[str, Known]) -> None:
    """Put a Squeeze and a Gather in the place of a node."""
    weight, indices, output = *node.input, node.output[0]
    axis = (known[indices].rank or 1) - 1
    rows = squeeze(editor, indices, [axis], output, opset)
    gather = onnx.helper.make_node("Gather", [weight, rows.output[0]], [output], name=node.name, axis=0)
    editor.remove(node)
    editor.insert_before(node, [rows, gather])
