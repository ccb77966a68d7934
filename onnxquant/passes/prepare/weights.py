"""Folding of weights that nodes compute from constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.computed import Computation, mark
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.names import SITE
from onnxquant.graph.needs import MOVES, classify
from onnxquant.graph.node import STANDARD, is_op
from onnxquant.graph.refusal import Refusal
from onnxquant.graph.shapes import UNKNOWN, Known, infer
from onnxquant.graph.sites import FLOATS, MIN_ELEMENTS
from onnxquant.graph.traverse import subgraphs
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.prepare.evaluation import NEVER_FOLDED, computation, evaluate, renamed

# A constant up to this size may be read by other nodes too: it is stored beside the weight.
_SMALL = 1024
# Bits per weight of the smallest codes. A weight that takes more so than what it is computed from is not worth folding.
_FEWEST_BITS = 2
# Weights above this size lie in temporary files.
_LARGE = 16 << 20
# onnxruntime takes a model of at most 2 GiB from memory.
_MOST = (2 << 30) - (64 << 20)


@dataclass(frozen=True)
class FoldWeights(Pass):
    """Computes weights that depend on constants alone, so that they can be encoded like any other.

    1. Nodes that compute a weight from constants, and nothing else, become the weight. A weight behind one Cast keeps the
       name of its constant.

           MatMul(x, Cast(w))                     ->   MatMul(x, w)
           Conv(x, Mul(Div(v, ReduceL2(v)), g))   ->   Conv(x, weight)
           MatMul(x, Add(w, MatMul(b, a)))        ->   MatMul(x, weight)

    2. Nodes that only move values (Transpose, Reshape, ...) between a weight and its reader stay. Nodes that compute the same
       of constants become one.
    3. A weight whose constants other nodes read too stays computed, as does one that would take more space in the fewest
       bits, or that holds codes (QuantizeLinear, integers).
    4. A weight that stays in float becomes the nodes again when the file is written.
    """

    name = "fold-weights"
    summary = "computes weights that nodes make of constants: behind Cast, weight normalization, low-rank updates"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        known: dict[str, Known] | None = None
        folded = joined = 0
        for editor in graph_editors(document):
            folder = _WeightFolder(document, editor)
            joined += folder.joined
            if results := folder.results():
                known = infer(document) if known is None else known
                folded += sum(folder.fold(node, known.get(node.output[0], UNKNOWN)) for node in results)
            editor.apply()
        parts = [f"{folded} weights computed from constants"] * bool(folded)
        parts += [f"{joined} nodes joined that compute the same of constants"] * bool(joined)
        return PassResult(bool(parts), tuple(parts))


class _WeightFolder:
    """Folds the weights of one graph.

    Args:
        document: the model.
        editor: the graph.

    Attributes:
        joined: number of nodes that computed what another one does, and are gone.
    """

    def __init__(self, document: Document, editor: GraphEditor) -> None:
        self._document, self._editor = document, editor
        self._computed: dict[str, onnx.NodeProto] = {}  # nodes of constants alone, by their output
        self.joined = 0
        first: dict[bytes, str] = {}  # the first output by computation
        for node in list(editor.graph.node):
            if self._is_computed(node):
                same = first.setdefault(computation(node), node.output[0])
                if same != node.output[0] and editor.bypass(node, same):
                    self.joined += 1
                else:
                    self._computed[node.output[0]] = node

    def _is_computed(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes one tensor of constants of this graph alone."""
        plain = node.domain in STANDARD and node.op_type not in NEVER_FOLDED and len(node.output) == 1
        if not plain or is_op(node, "Constant") or any(True for _ in subgraphs(node)):
            return False
        if any(entry.key == SITE for entry in node.metadata_props):
            return False
        names = [name for name in node.input if name]
        return bool(names) and all(name in self._computed or self._is_source(name) for name in names)

    def _is_source(self, name: str) -> bool:
        """Whether a tensor is a constant of this graph that may be folded. Large integers are codes."""
        tensor = self._editor.own_constant(name)
        return tensor is not None and (tensor.data_type in FLOATS or nbytes(tensor) <= _SMALL)

    def results(self) -> list[onnx.NodeProto]:
        """The computed nodes that do more than move values, and whose values other nodes need."""
        return [n for n in self._computed.values() if n.op_type not in MOVES and self._is_needed(n.output[0])]

    def _is_needed(self, name: str) -> bool:
        """Whether a node that is not computed reads a tensor, directly or after moves."""
        if not self._editor.is_private(name):
            return name not in self._editor.outputs
        for reader in self._editor.consumers(name):
            computed = self._computed.get(reader.output[0]) is reader
            if not computed or (reader.op_type in MOVES and self._is_needed(reader.output[0])):
                return True
        return False

    def fold(self, node: onnx.NodeProto, known: Known) -> bool:
        """Fold one result; False where it stays computed."""
        shape = known.fixed
        if shape is None or known.elem_type not in FLOATS or len(shape) < 2 or prod(shape) < MIN_ELEMENTS:
            return False
        if node.output[0] in self._editor.outputs or not self._makes_a_site(node.output[0], shape):
            return False
        nodes = self._nodes_of(node)
        sources = self._sources_of(nodes)
        if not self._are_private(nodes, sources):
            return False
        stored = sum(nbytes(t) for t in sources if nbytes(t) > _SMALL)
        if stored > _MOST or 8 * stored < _FEWEST_BITS * prod(shape):
            return False
        values = evaluate(self._document, nodes, {t.name: t for t in sources})
        if values is None or not np.isfinite(values[0]).all():
            return False
        self._replace(nodes, Computation(node.output[0], _copies(nodes), tuple(sources), stored), values[0])
        return True

    def _makes_a_site(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether an operator that encoded weights serve reads a tensor of this shape."""
        if name in self._editor.captured:
            return True
        readers = [
            (n, position) for n in self._editor.consumers(name) for position, i in enumerate(n.input) if i == name
        ]
        return any(not isinstance(classify(node, position, shape), Refusal) for node, position in readers)

    def _nodes_of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that a result is computed by, in the graph's order, the result's last."""
        outputs, waiting = {node.output[0]}, list(node.input)
        while waiting:
            before = self._computed.get(name := waiting.pop())
            if before is not None and name not in outputs:
                outputs.add(name)
                waiting += before.input
        return [n for name, n in self._computed.items() if name in outputs]

    def _sources_of(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.TensorProto]:
        """The constants that nodes are computed from."""
        outputs = {n.output[0] for n in nodes}
        names = dict.fromkeys(name for n in nodes for name in n.input if name and name not in outputs)
        tensors = {name: self._editor.own_constant(name) for name in names}
        return [renamed(tensor, name) for name, tensor in tensors.items() if tensor is not None]

    def _are_private(self, nodes: Sequence[onnx.NodeProto], sources: Sequence[onnx.TensorProto]) -> bool:
        """Whether no other node reads the large constants of a computation, or what is computed of them."""
        private = {t.name for t in sources if nbytes(t) > _SMALL}
        private |= {
            n.output[0] for n in nodes[:-1] if any(t.name in private for t in self._sources_of(self._nodes_of(n)))
        }
        readers = [n for name in private for n in self._editor.consumers(name)]
        inside = {n.output[0] for n in nodes}
        return all(map(self._editor.is_private, private)) and all(n.output[0] in inside for n in readers)

    def _replace(self, nodes: Sequence[onnx.NodeProto], origin: Computation, values: NDArray[Any]) -> None:
        """Put a weight in the place of the nodes that compute it."""
        editor, node = self._editor, nodes[-1]
        name = node.output[0]
        source = origin.constants[0].name
        only_cast = len(nodes) == 1 and is_op(node, "Cast") and editor.owns_constant(node, 0)
        if only_cast and editor.producer(source) is None and editor.is_private(name):
            editor.set_constant(node, 0, values)
            editor.bypass(node, source)
            name = source
        else:
            editor.become_constants(node, [values])
        for before in reversed(nodes[:-1]):
            if not editor.is_read(before.output[0]):
                editor.remove(before)
                del self._computed[before.output[0]]
        del self._computed[node.output[0]]
        tensor = editor.own_constant(name)
        if tensor is not None:
            if values.nbytes > _LARGE:
                self._document.spill(tensor, values)
            key = str(len(self._document.computations))
            mark(tensor, key)
            self._document.computations[key] = origin


def _copies(nodes: Sequence[onnx.NodeProto]) -> tuple[onnx.NodeProto, ...]:
    return tuple(onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes)
