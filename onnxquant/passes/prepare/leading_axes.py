"""Matrices out of weights that have leading axes of length one."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.sites import FLOATS
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class DropLeadingAxes(Pass):
    """Makes a matrix of a MatMul weight whose axes before the last two have length one, so that kernels take it.

    1. The axes go where every reader is a MatMul whose other input has as many axes, so that its output keeps its own.

           MatMul(x[b, s, k], w[1, k, n])   ->   MatMul(x[b, s, k], w[k, n])
    """

    name = "drop-leading-axes"
    summary = "makes matrices of MatMul weights whose leading axes have length one"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        known: dict[str, Known] | None = None
        changed = 0
        for editor in graph_editors(document):
            for tensor in editor.graph.initializer:
                if not _is_candidate(editor, tensor):
                    continue
                known = infer(document) if known is None else known
                if all(_has_axes(known.get(n.input[0], UNKNOWN), tensor) for n in editor.consumers(tensor.name)):
                    tensor.dims[:] = tensor.dims[-2:]
                    changed += 1
        return PassResult(True, (f"leading axes of {changed} weights dropped",)) if changed else PassResult()


def _is_candidate(editor: GraphEditor, tensor: onnx.TensorProto) -> bool:
    """Whether MatMuls alone read a constant, as their second input, and it has leading axes of length one."""
    dims, name = tensor.dims, tensor.name
    if len(dims) < 3 or set(dims[:-2]) != {1} or tensor.data_type not in FLOATS:
        return False
    if name in editor.inputs or not editor.is_private(name):
        return False
    readers = editor.consumers(name)
    return bool(readers) and all(is_op(n, "MatMul") and n.input[0] != name for n in readers)


def _has_axes(known: Known, tensor: onnx.TensorProto) -> bool:
    return known.rank is not None and known.rank >= len(tensor.dims)
