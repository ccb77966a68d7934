"""Residual Adds before a LayerNormalization become Sum, which ONNX Runtime does not fuse with it.

Its SkipLayerNormalization takes several times as long as the two (scripts/bench_sums.py): beside integer products that is
a sixth of an encoder's time.
"""

from __future__ import annotations

from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op

_LEAST_OPSET = 8  # from which Sum broadcasts


def keep_sums(document: Document) -> str | None:
    """Write the Adds of two activations that one LayerNormalization alone reads as Sum."""
    changed = 0
    for editor in graph_editors(document) if document.opset >= _LEAST_OPSET else ():
        for node in editor.nodes:
            if not is_op(node, "Add") or any(editor.constant(name) is not None for name in node.input):
                continue
            reader = editor.single_consumer(node.output[0])
            if is_op(reader, "LayerNormalization") and reader and reader.input[0] == node.output[0]:
                node.op_type = "Sum"
                changed += 1
    return f"{changed} Adds before a LayerNormalization written as Sum" if changed else None
