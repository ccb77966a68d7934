"""Residual sums that onnxruntime does not fuse with a LayerNormalization."""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.passes.base import Pass, PassResult

_LEAST_OPSET = 8  # from which Sum broadcasts


@dataclass(frozen=True)
class KeepSums(Pass):
    """Writes the Adds before a LayerNormalization as Sum, which onnxruntime does not fuse with it.

    The fused SkipLayerNormalization takes several times as long as the two nodes (scripts/bench_sums.py). Beside integer
    products that is a sixth of an encoder's time.

    1. An Add of two activations that one LayerNormalization alone reads becomes a Sum, from opset 8 on.

           LayerNormalization(Add(a, b))   ->   LayerNormalization(Sum(a, b))
    """

    name = "keep-sums"
    summary = "writes Adds before a LayerNormalization as Sum, which onnxruntime does not fuse with it"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        changed = 0
        for editor in graph_editors(document) if document.opset >= _LEAST_OPSET else ():
            for node in editor.nodes:
                if not is_op(node, "Add") or any(editor.constant(name) is not None for name in node.input):
                    continue
                reader = editor.single_consumer(node.output[0])
                if is_op(reader, "LayerNormalization") and reader and reader.input[0] == node.output[0]:
                    node.op_type = "Sum"
                    changed += 1
        note = f"{changed} Adds before a LayerNormalization written as Sum"
        return PassResult(True, (note,)) if changed else PassResult()
