"""Activation functions that are written with several operators."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import erf

from onnxquant.graph.analysis.scalar_functions import ScalarFunction, Term, scalar_functions
from onnxquant.graph.editor import GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.node import is_op, set_attribute
from onnxquant.passes.base import Pass, PassResult

_LAST = ("Mul", "Div", "Clip", "Min", "Max")
_TOLERANCE = 1e-6  # of float32's constants
_FAR = np.logspace(-4, 4, 65)
_POINTS = np.concatenate([np.linspace(-12, 12, 961), _FAR, -_FAR])


@dataclass(frozen=True)
class Spelling:
    """An activation function, and how it is best written for onnxruntime.

    Attributes:
        name: name of the function, for reports.
        function: the function, in float64.
        term: the term that it is written as.
        others: further terms that onnxruntime computes as fast.
    """

    name: str
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    term: Term
    others: tuple[Term, ...] = ()

    def replaces(self, term: Term) -> bool:
        """Whether a term computes this function, and onnxruntime may be slower at it."""
        if any(str(term) == str(known) for known in (self.term, *self.others)):
            return False
        with np.errstate(all="ignore"):
            return np.allclose(term.values(_POINTS), self.function(_POINTS), rtol=_TOLERANCE, atol=_TOLERANCE)


def _plus_one(term: Term) -> Term:
    return Term("Add", (term, 1.0))


_ERF = _plus_one(Term("Erf", (Term("Div", (None, math.sqrt(2))),)))
_HALF = Term("Mul", (None, 0.5))
_ROOT = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_SQUARE = Term("Mul", (Term("Mul", (None, _CUBIC)), None))
_TANH = _plus_one(Term("Tanh", (Term("Mul", (Term("Mul", (None, _ROOT)), _plus_one(_SQUARE))),)))
_CUBE = Term("Mul", (Term("Pow", (None, 3.0)), _CUBIC))
_TANH_OF_CUBE = _plus_one(Term("Tanh", (Term("Mul", (Term("Add", (None, _CUBE)), _ROOT)),)))
_HARD_SIGMOID = Term("HardSigmoid", (None, 1 / 6, 0.5))

_SPELLINGS = (
    Spelling(
        "GELU",
        lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
        Term("Mul", (Term("Mul", (None, _ERF)), 0.5)),
        (Term("Mul", (_HALF, _ERF)),),
    ),
    Spelling(
        "GELU by tanh",
        lambda x: x * (1 + np.tanh(_ROOT * (x + _CUBIC * x**3))) / 2,
        Term("Mul", (_HALF, _TANH)),
        (Term("Mul", (_HALF, _TANH_OF_CUBE)),),
    ),
    Spelling("hard swish", lambda x: x * np.clip(x + 3, 0, 6) / 6, Term("Mul", (None, _HARD_SIGMOID))),
    Spelling("hard sigmoid", lambda x: np.clip(x + 3, 0, 6) / 6, _HARD_SIGMOID),
)


@dataclass(frozen=True)
class SpellActivations(Pass):
    """Writes GELU, hard swish and hard sigmoid as onnxruntime computes them fastest (scripts/bench_spellings.py).

    A function is known by its values in float64, not by its operators: all that is computed from one float32 tensor with
    constants of one value, and that nothing else reads, is compared with it from -10,000 to 10,000.

    1. GELU is written in the one of its spellings that every onnxruntime makes a single operator of, at any opset.

           Mul(x, Mul(0.5, Add(Erf(Div(x, 1.414)), 1)))   ->   Mul(Mul(x, Add(Erf(Div(x, 1.414)), 1)), 0.5)

    2. GELU by tanh likewise.

           Mul(Mul(x, Add(Tanh(Mul(Add(x, Mul(Mul(Mul(x, x), x), 0.0447)), 0.798)), 1)), 0.5)
             ->   Mul(Mul(x, 0.5), Add(Tanh(Mul(Mul(x, 0.798), Add(Mul(Mul(x, 0.0447), x), 1))), 1))

    3. Hard swish and hard sigmoid become HardSigmoid, which onnxruntime joins with a Conv before it.

           Div(Mul(x, Clip(Add(x, 3), 0, 6)), 6)          ->   Mul(x, HardSigmoid(x))
    """

    name = "spell-activations"
    summary = "writes GELU, hard swish and hard sigmoid as onnxruntime computes them fastest"

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        counts = Counter[str]()
        for editor in graph_editors(document):
            writer = _Writer(editor)
            for node in reversed(list(editor.nodes)):
                if is_op(node, *_LAST) and not editor.is_removed(node):
                    spelling = _respell(document, writer, node)
                    counts += Counter([spelling.name] if spelling else [])
            editor.apply()
        notes = [f"{count} x {name} written as onnxruntime computes it fastest" for name, count in counts.items()]
        return PassResult(True, tuple(notes)) if notes else PassResult()


def _respell(document: Document, writer: _Writer, last: onnx.NodeProto) -> Spelling | None:
    """Write the function that ends at a node anew; None where it is no known one, or is written well."""
    for function in scalar_functions(document, writer.editor, last):
        for spelling in _SPELLINGS if len(function.nodes) > 1 else ():
            if spelling.replaces(function.term):
                writer.replace(function, spelling.term)
                return spelling
    return None


@dataclass(frozen=True)
class _Writer:
    """Writes terms into a graph.

    Attributes:
        editor: the graph.
        constants: names of the constants written so far, by value.
    """

    editor: GraphEditor
    constants: dict[float, str] = field(default_factory=dict)

    def replace(self, function: ScalarFunction, term: Term) -> None:
        """Put another term in the place of a function's nodes."""
        last = function.nodes[-1]
        nodes: list[onnx.NodeProto] = []
        self._add(term, function.source, last.output[0], nodes)
        for node in function.nodes:
            self.editor.remove(node)
        self.editor.insert_before(last, nodes)

    def _add(self, term: Term, source: str, output: str, nodes: list[onnx.NodeProto]) -> str:
        """Add the nodes of a term; the name of its output is returned."""
        is_hard = term.op == "HardSigmoid"
        values = term.inputs[:1] if is_hard else term.inputs
        inputs = [self._name(value, source, output, nodes) for value in values]
        node = onnx.helper.make_node(term.op, inputs, [output], name=self.editor.names.fresh(output))
        for name, value in zip(("alpha", "beta"), term.inputs[1:] if is_hard else (), strict=is_hard):
            set_attribute(node, name, value)
        nodes.append(node)
        return output

    def _name(self, value: Term | float | None, source: str, output: str, nodes: list[onnx.NodeProto]) -> str:
        if value is None:
            return source
        if isinstance(value, Term):
            return self._add(value, source, self.editor.names.fresh(f"{output}_{value.op.lower()}"), nodes)
        if value not in self.constants:
            self.constants[value] = self.editor.add_constant("constant", np.float32(value))
        return self.constants[value]
