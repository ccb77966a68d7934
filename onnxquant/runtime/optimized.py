"""The graph that ONNX Runtime really runs: the model after its own rewriting."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import onnx

from onnxquant.graph.functions import is_call
from onnxquant.graph.names import NUMBERED
from onnxquant.graph.traverse import nodes
from onnxquant.runtime.sessions import open_session, session_options, write_optimized

# Ops that only move or retype values, or add a bias to a product.
_MOVES = frozenset({"Reshape", "Transpose", "Cast", "Add", "Mul", "Squeeze", "Unsqueeze", "Identity"})


def optimized_graph(path: str | Path, *, library: bool = True, threads: int | None = None) -> onnx.ModelProto:
    """The optimized graph of a model, large weights left out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options = session_options(threads=threads)
        write_optimized(options, file)
        open_session(path, options, library=library)
        return onnx.load(str(file), load_external_data=False)


def optimized_ops(path: str | Path, *, library: bool = True, threads: int | None = None) -> dict[str, int]:
    """Number of nodes by op of the optimized graph: the kernels that ONNX Runtime chose."""
    return histogram(optimized_graph(path, library=library, threads=threads))


def histogram(proto: onnx.ModelProto) -> dict[str, int]:
    """Number of nodes by op, most frequent first; ops of other domains with theirs."""
    return dict(Counter(map(op_name, nodes(proto))).most_common())


def op_name(node: onnx.NodeProto) -> str:
    """The op of a node, with its domain where that is not ONNX's own; ours that are one op in several bodies by one name."""
    name = next((prefix for prefix in NUMBERED if is_call(node, prefix)), str(node.op_type))
    return f"{node.domain}.{name}" if node.domain not in ("", "ai.onnx") else name


class Kernels:
    """Kernels of an optimized graph, by the tensors that they read and make and by the names of their nodes.

    Args:
        proto: an optimized graph.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._named: dict[str, set[str]] = {}
        for node in nodes(proto):
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
            self._producers.update((name, node) for name in node.output)
            if node.name:
                self._named.setdefault(node.name, set()).add(op_name(node))

    def reading(self, constants: Iterable[str]) -> set[str]:
        """Ops that compute with constants; those that only move them are left out."""
        readers = (n for name in constants if name not in self._producers for n in self._readers.get(name, ()))
        return {op_name(node) for node in readers if node.op_type not in _MOVES}

    def making(self, tensors: Iterable[str]) -> set[str]:
        """Ops that compute tensors, behind nodes that only move the values or add a bias."""
        return {op_name(node) for name in tensors if (node := self._product(name)) is not None}

    def named(self, names: Collection[str]) -> set[str]:
        """Ops of the nodes with these names."""
        return {op for name in names for op in self._named.get(name, ())}

    def _product(self, name: str) -> onnx.NodeProto | None:
        node = self._producers.get(name)
        while node is not None and node.op_type in _MOVES and node.input and node.input[0] in self._producers:
            node = self._producers[node.input[0]]
        return node
