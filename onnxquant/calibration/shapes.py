"""Shapes of tensors in a call: those that a model declares, and those that a sample shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.clients import Shapes
from onnxquant.graph.io import Document
from onnxquant.graph.shapes import infer


def shapes_of(document: Document, dims: Mapping[str, int], feed: Feed | None, threads: int | None = None) -> Shapes:
    """Shapes of the tensors that products and convolutions of the main graph read, as far as they are known.

    Args:
        document: the model.
        dims: lengths of named dimensions.
        feed: a sample, which shows all of them; None: there is none.
        threads: number of threads of the session.

    Raises:
        ModelError: onnxruntime refuses the model, or does not run it on the sample.
    """
    if feed is None:
        return {name: known.shape for name, known in infer(_with_dims(document, dims)).items()}
    names = _read_by_kernels(document)
    with runtime.extendable(document, threads) as source:
        session = source.session(runtime.shape_addition(names))
        shapes = runtime.run(session, feed, [runtime.shape_output(i) for i in range(len(names))])
    inputs = {name: tuple(array.shape) for name, array in feed.items()}
    return {**inputs, **{n: tuple(map(int, shape)) for n, shape in zip(names, shapes.values(), strict=True)}}


def _read_by_kernels(document: Document) -> list[str]:
    """First inputs of the products and convolutions that the main graph computes."""
    graph = document.proto.graph
    computed = {name for node in graph.node for name in node.output}
    first: Iterable[str] = (n.input[0] for n in graph.node if n.op_type in ("MatMul", "Gemm", "Conv"))
    return [name for name in dict.fromkeys(first) if name in computed]


def _with_dims(document: Document, dims: Mapping[str, int]) -> Document:
    """A model whose inputs have the lengths of named dimensions; itself where none is named."""
    if not dims:
        return document
    copy = document.copy()
    for entry in copy.proto.graph.input:
        for axis in entry.type.tensor_type.shape.dim:
            if axis.dim_param in dims:
                axis.dim_value = dims[axis.dim_param]
    return copy
