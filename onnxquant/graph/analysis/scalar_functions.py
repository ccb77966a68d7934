"""Nodes that together compute a function of each element of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import erf

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op

_FUNCTIONS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "Add": np.add,
    "Clip": np.clip,
    "Div": np.divide,
    "Erf": erf,
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "Relu": lambda x: np.maximum(x, 0),
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
_COMMUTE = ("Add", "Max", "Min", "Mul")
_MOST_NODES = 12


@dataclass(frozen=True)
class Term:
    """An operator and what it is applied to.

    Attributes:
        op: type of the operator.
        inputs: other terms, constants, and None for the source; what are attributes of HardSigmoid, and were those of Clip,
            comes last.
    """

    op: str
    inputs: tuple[Term | float | None, ...]

    def values(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The function of values of the source, in float64."""
        inputs = (i.values(x) if isinstance(i, Term) else x if i is None else i for i in self.inputs)
        return _FUNCTIONS[self.op](*inputs)

    def __str__(self) -> str:
        """The term in words, with constants to four digits; sums and products are in one order, however they are written."""
        inputs = ["x" if i is None else str(i) if isinstance(i, Term) else f"{i:.4g}" for i in self.inputs]
        return f"{self.op}({', '.join(sorted(inputs) if self.op in _COMMUTE else inputs)})"


@dataclass(frozen=True)
class ScalarFunction:
    """Nodes that compute a function of each element of one float32 tensor, and nothing that others read.

    Attributes:
        source: name of the tensor.
        nodes: the nodes, in the order of the graph; the last one makes the function's values.
        term: the function.
    """

    source: str
    nodes: tuple[onnx.NodeProto, ...]
    term: Term


def scalar_functions(document: Document, editor: GraphEditor, last: onnx.NodeProto) -> Iterator[ScalarFunction]:
    """The functions whose values a node makes, of ever farther sources.

    Constants are float32 and have one value, on one axis at most: they change neither type nor shape.
    """
    inside: dict[int, onnx.NodeProto] = {}
    node: onnx.NodeProto | None = last
    front = dict[str, None]()
    while node is not None and node.op_type in _FUNCTIONS and is_op(node, node.op_type) and len(inside) < _MOST_NODES:
        inside[editor.place(node)] = node
        front.pop(node.output[0], None)
        front |= dict.fromkeys(n for n in node.input if n and editor.constant(n) is None)
        if len(front) == 1:
            source = next(iter(front))
            term = _term(document, editor, last, source)
            if term is None:
                return
            yield ScalarFunction(source, tuple(inside[place] for place in sorted(inside)), term)
        # What is made last can be no source of the others: it has to be a part of the function.
        makers = [maker for maker in map(editor.producer, front) if maker is not None]
        node = max(makers, key=editor.place, default=None)
        if node is not None and not _is_private(editor, node, inside):
            return


def _is_private(editor: GraphEditor, node: onnx.NodeProto, inside: dict[int, onnx.NodeProto]) -> bool:
    """Whether only some nodes read what a node computes."""
    if len(node.output) != 1 or not editor.is_private(node.output[0]):
        return False
    return all(editor.place(reader) in inside for reader in editor.consumers(node.output[0]))


def _term(document: Document, editor: GraphEditor, node: onnx.NodeProto, source: str) -> Term | None:
    """The function of a source that a node computes; None where a constant is not one float32 value."""
    inputs: list[Term | float | None] = []
    for place, name in enumerate(node.input):
        maker = editor.producer(name)
        tensor = editor.constant(name)
        if name == source:
            inputs.append(None)
        elif tensor is not None:
            if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) > 1 or np.prod(tensor.dims) != 1:
                return None
            inputs.append(float(document.array(tensor).reshape(-1)[0]))
        elif not name and node.op_type == "Clip" and place:
            inputs.append(-np.inf if place == 1 else np.inf)
        else:
            term = _term(document, editor, maker, source) if maker is not None else None
            if term is None:
                return None
            inputs.append(term)
    if node.op_type == "HardSigmoid":
        inputs += [attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)]
    if node.op_type == "Clip" and len(inputs) < 3:  # until opset 11 its bounds are attributes
        bounds = (attribute(node, "min", -np.inf), attribute(node, "max", np.inf))
        inputs += bounds[len(inputs) - 1 :]
    is_complete = len(inputs) == {"Clip": 3, "HardSigmoid": 3, "Erf": 1, "Neg": 1, "Relu": 1, "Tanh": 1}.get(
        node.op_type, 2
    )
    return Term(node.op_type, tuple(inputs)) if is_complete else None
