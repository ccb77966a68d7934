"""Pass ``demo-pass``: takes out Identity nodes."""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.graph.editor import graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class DropIdentities(Pass):
    """Lets nodes read what an Identity reads."""

    name = "demo-pass"
    summary = "takes out Identity nodes"

    def __call__(self, document: Document) -> PassResult:
        dropped = 0
        for editor in graph_editors(document):
            dropped += sum(editor.bypass(node, node.input[0]) for node in editor.nodes if is_op(node, "Identity"))
            editor.apply()
        return PassResult(True, (f"{dropped} Identity nodes taken out",)) if dropped else PassResult()
