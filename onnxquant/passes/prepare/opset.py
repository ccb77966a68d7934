"""Conversion to a newer opset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx
import onnx.version_converter

from onnxquant.graph.io import Document
from onnxquant.graph.node import STANDARD, attribute, is_op
from onnxquant.graph.traverse import graphs, nodes, replace_field
from onnxquant.passes.base import Pass, PassResult

# Until this opset Softmax and its kin made a matrix of their input; after it they do not, without a sign in the graph.
_SOFTMAX_OPSET = 13


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Converts a model to a newer opset by onnx's version converter, which rewrites nodes.

    The converter knows only standard ops and can fail: whoever runs this pass compares the outputs of both models.

    1. Nodes are rewritten for the new opset; the IR version does not fall.

           Squeeze(x) with axes   ->   Squeeze(x, axes)

    2. Inputs and outputs keep the types and shapes that they had, where the converter writes inferred ones. Those that it
       adds for other tensors are dropped.
    3. A model that the converter cannot read (functions, operators that onnx does not know) gets the newer opset with its
       nodes as they are. It stays where that would silently change one (Softmax before opset 13).
    4. A model that has a newer opset already stays.

    Attributes:
        version: the new opset.
    """

    name = "convert-opset"
    summary = "converts the model to a newer opset by onnx's version converter"

    version: int

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        before = document.opset
        if self.version <= before:
            return PassResult()
        try:
            converted = onnx.version_converter.convert_version(document.proto, self.version)
        except Exception as error:  # the converter raises RuntimeError, ValueError and its own
            return self._state(document, str(error).splitlines()[0])
        if len(converted.functions) < len(document.proto.functions):
            return self._state(document, "it knows no functions")
        converted.ir_version = max(document.proto.ir_version, converted.ir_version)
        for kind in ("input", "output"):
            originals = getattr(document.proto.graph, kind)
            for value, original in zip(getattr(converted.graph, kind), originals, strict=True):
                value.CopyFrom(original)
        stated = {value.name for graph in graphs(document.proto.graph) for value in graph.value_info}
        for graph in graphs(converted.graph):
            replace_field(graph.value_info, [value for value in graph.value_info if value.name in stated])
        document.proto.CopyFrom(converted)
        return PassResult(True, (f"opset converted from {before} to {self.version}",))

    def _state(self, document: Document, failure: str) -> PassResult:
        """State the new opset without rewriting a node."""
        before = document.opset
        if before < _SOFTMAX_OPSET <= self.version and any(_flattens(node) for node in nodes(document.proto)):
            reason = f"the conversion to {self.version} failed ({failure})"
            return PassResult(notes=(f"opset stays {before}: {reason}",), refusals=Counter([reason]))
        for imports in (document.proto.opset_import, *(f.opset_import for f in document.proto.functions)):
            for entry in imports:
                if entry.domain in STANDARD:
                    entry.version = self.version
        note = f"opset raised from {before} to {self.version} with the nodes as they are: onnx's converter failed ({failure})"
        return PassResult(True, (note,))


def _flattens(node: onnx.NodeProto) -> bool:
    """Whether a node made a matrix of its input in a way that may differ from its last axis alone."""
    return is_op(node, "Softmax", "LogSoftmax", "Hardmax") and attribute(node, "axis", 1) != -1
