"""A float model with further outputs: sessions that show intermediate tensors."""

from __future__ import annotations

import mmap
import secrets
from collections.abc import Iterable
from pathlib import Path

import onnx

from onnxquant.graph.io import Document, graphs, load
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.publish import Publisher
from onnxquant.runtime import sessions as runtime
from onnxquant.runtime.blocked import blocked_session

# Serialized models above this are written to a file for the session, which else keeps a copy of them in memory.
_IN_MEMORY = 64 << 20


class Extended:
    """A model whose sessions have more outputs.

    Serialized messages that follow each other are one message, repeated fields joined
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins): the addition is appended to the model's bytes, and
    what is not added to is not even parsed. External data stays where it is, mapped.

    Args:
        model: a file, or a document that may have been edited since it was loaded.
        folder: for temporary files.
        threads: of sessions; None: ONNX Runtime's choice.
    """

    def __init__(self, model: Path | Document, folder: Path, threads: int | None) -> None:
        self.document = load(model) if isinstance(model, Path) else model
        self.threads = threads
        self._folder = folder
        self._file = model if isinstance(model, Path) else self._publish()

    def _publish(self) -> Path:
        path, proto = self._folder / "model.onnx", onnx.ModelProto()
        proto.CopyFrom(self.document.proto)
        external = self.document.is_external() or self.document.size() > _IN_MEMORY
        with Publisher(path, external=external, force=True) as publisher:
            publisher.keep(proto, self.document)
            publisher.publish(proto)
        return path

    def observing(self, addition: onnx.ModelProto) -> runtime.Session:
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
    ) -> runtime.Session:
        """A session on the model with an addition.

        Args:
            addition: a model that holds only what is added: outputs, nodes, opset imports.
            optimize: let ONNX Runtime rewrite the graph.
            optimized: write the rewritten graph here.

        Raises:
            ModelError: onnxruntime refuses it.
        """
        options = runtime.session_options(threads=self.threads, optimize=optimize)
        if optimized is not None:
            runtime.write_optimized(options, optimized)
        suffix = addition.SerializeToString()
        with self._file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if len(mapped) <= _IN_MEMORY or self.document.is_external():
                return runtime.open_session(bytes(mapped) + suffix, options, folder=self._file.parent)
            path = self._folder / "extended.onnx"
            with path.open("wb") as out:
                out.write(mapped)
                out.write(suffix)
        return runtime.open_session(path, options)


def outputs(names: Iterable[str]) -> onnx.ModelProto:
    """An addition that makes tensors outputs; ONNX Runtime finds their types."""
    addition = onnx.ModelProto()
    for name in names:
        addition.graph.output.add(name=name)
    return addition


def shapes(names: Iterable[str]) -> onnx.ModelProto:
    """An addition with the shape of tensor i as the output ``onnxquant/shape/i``."""
    addition = onnx.ModelProto()
    for i, name in enumerate(names):
        addition.graph.node.add(op_type="Shape", name=shape_name(i), input=[name], output=[shape_name(i)])
        addition.graph.output.add(name=shape_name(i))
    return addition


def shape_name(index: int) -> str:
    """Output with the shape of a tensor."""
    return f"onnxquant/shape/{index}"


def nested(proto: onnx.ModelProto) -> dict[str, str]:
    """Tensors that are computed inside subgraphs -> the node that holds the subgraph."""
    found: dict[str, str] = {}
    for node in proto.graph.node:
        holder = f"{node.op_type} {node.name!r}".strip()
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for top in inner:
                for graph in graphs(top):
                    found.update((o, holder) for n in graph.node for o in n.output if o)
    return found
