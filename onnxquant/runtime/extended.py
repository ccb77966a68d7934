"""Sessions on a model with additions: outputs that show intermediate tensors, and nodes that observe them.

An *addition* is a ModelProto that holds only what is added: nodes, outputs, opset imports.
"""

from __future__ import annotations

import mmap
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from onnxquant.graph.io import Document, load
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.publish import write_copy
from onnxquant.graph.traverse import graphs
from onnxquant.runtime import sessions
from onnxquant.runtime.blocked import blocked_session

# Serialized models above this are written to a file for the session, which else keeps a copy of them in memory.
_IN_MEMORY = 64 << 20


class ExtendableModel:
    """A model whose sessions may have more nodes and outputs than the model itself.

    Serialized messages that follow each other are one message, repeated fields joined
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins). So the addition is appended to the model's bytes,
    and the model is not even parsed. External data stays where it is, mapped.

    Args:
        model: a file, or a document that may have been edited since it was loaded.
        folder: folder for temporary files.
        threads: number of threads of a session; None: ONNX Runtime's choice.
    """

    def __init__(self, model: Path | Document, folder: Path, threads: int | None) -> None:
        self.document = load(model) if isinstance(model, Path) else model
        self.threads = threads
        self._folder = folder
        self._file = model if isinstance(model, Path) else self._publish()

    def _publish(self) -> Path:
        path = self._folder / "model.onnx"
        write_copy(self.document, path, external=self.document.is_external() or self.document.size() > _IN_MEMORY)
        return path

    def observing(self, addition: onnx.ModelProto) -> sessions.Session:
        """A session on the model with observers, which read tensors in the layout that ONNX Runtime computes them in.

        Raises:
            ModelError: onnxruntime refuses it.
        """
        if not any(node.domain == DOMAIN for node in addition.graph.node):
            return self.session(addition)
        optimized = self._folder / f"optimized-{secrets.token_hex(4)}.onnx"
        return blocked_session(self.session(addition, optimized=optimized), optimized, self.threads)

    def session(
        self, addition: onnx.ModelProto, *, optimize: bool = True, optimized: Path | None = None
    ) -> sessions.Session:
        """A session on the model with an addition.

        Args:
            addition: the added nodes, outputs and opset imports.
            optimize: ONNX Runtime may rewrite the graph.
            optimized: file that ONNX Runtime writes the rewritten graph to.

        Raises:
            ModelError: onnxruntime refuses it.
        """
        options = sessions.session_options(threads=self.threads, optimize=optimize)
        if optimized is not None:
            sessions.write_optimized(options, optimized)
        suffix = addition.SerializeToString()
        with self._file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if len(mapped) <= _IN_MEMORY or self.document.is_external():
                return sessions.open_session(bytes(mapped) + suffix, options, folder=self._file.parent)
            path = self._folder / "extended.onnx"
            with path.open("wb") as out:
                out.write(mapped)
                out.write(suffix)
        return sessions.open_session(path, options)


@contextmanager
def extendable(model: Path | Document, threads: int | None = None) -> Iterator[ExtendableModel]:
    """A model for sessions with additions, with a temporary folder of its own.

    Args:
        model: a file, or a document.
        threads: number of threads of a session; None: ONNX Runtime's choice.
    """
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        yield ExtendableModel(model, Path(folder), threads)


@contextmanager
def session_of(
    model: Path | Document, outputs: Iterable[str] = (), *, threads: int | None = None
) -> Iterator[sessions.Session]:
    """A session on a model as it is in memory, with further tensors as outputs.

    Args:
        model: a file, or a document.
        outputs: tensors that become outputs.
        threads: number of threads; None: ONNX Runtime's choice.

    Raises:
        ModelError: onnxruntime refuses it.
    """
    with extendable(model, threads) as source:
        yield source.session(output_addition(outputs))


def output_addition(names: Iterable[str]) -> onnx.ModelProto:
    """An addition that makes tensors outputs; ONNX Runtime finds their types."""
    addition = onnx.ModelProto()
    for name in names:
        addition.graph.output.add(name=name)
    return addition


def shape_addition(names: Iterable[str]) -> onnx.ModelProto:
    """An addition with the shape of tensor i as the output ``onnxquant/shape/i``."""
    addition = onnx.ModelProto()
    for i, name in enumerate(names):
        addition.graph.node.add(op_type="Shape", name=shape_output(i), input=[name], output=[shape_output(i)])
        addition.graph.output.add(name=shape_output(i))
    return addition


def shape_output(index: int) -> str:
    """Name of the output with the shape of a tensor."""
    return f"onnxquant/shape/{index}"


def subgraph_tensors(proto: onnx.ModelProto) -> dict[str, str]:
    """Tensors that are computed inside subgraphs, each with the node that holds the subgraph."""
    tensors: dict[str, str] = {}
    for node in proto.graph.node:
        holder = f"{node.op_type} {node.name!r}".strip()
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for top in inner:
                for graph in graphs(top):
                    tensors.update((o, holder) for n in graph.node for o in n.output if o)
    return tensors
