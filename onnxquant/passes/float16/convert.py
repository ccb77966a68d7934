"""Conversion of a whole graph to float16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx.inliner

from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.sites import FLOATS
from onnxquant.graph.traverse import replace_field, tensors
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.float16.conversion import GraphConversion, Lowered
from onnxquant.passes.float16.scope import FLOAT, HALF, GraphScope
from onnxquant.passes.float16.values import ConvertedConstant, Store, store_inline

_NOTHING_ENCODED = Lowered()


@dataclass(frozen=True)
class Float16Result(PassResult):
    """The result of a conversion to float16.

    Attributes:
        constants: every float32 constant.
        in_float32: reason by operator for nodes that compute in float32.
        casts: number of Casts added.
        scopes: scopes of the graphs that were converted.
    """

    constants: tuple[ConvertedConstant, ...] = ()
    in_float32: Mapping[str, str] = field(default_factory=dict)
    casts: int = 0
    scopes: tuple[GraphScope, ...] = ()

    def kind(self, name: str) -> int | None:
        """The type that a float32 value of the original is computed in; None for other values."""
        return next((kind for scope in self.scopes if (kind := scope.types.get(name)) is not None), None)

    def named(self, name: str, kind: int) -> str:
        """Name of a value in a type; its own name where it is no float32 value, or nothing reads it in that type."""
        names = (scope.named(name, kind) for scope in self.scopes if name in scope.types)
        return next((other for other in names if other is not None), name)


@dataclass(frozen=True)
class ConvertToFloat16(Pass):
    """Converts a whole graph to float16: weights, activations, inputs and outputs, with Casts exactly where types change.

    1. Model-local functions are inlined.
    2. Every float32 value gets the type that its producer gives it.

           MatMul(x: float32, W: float32)   ->   MatMul(x: float16, W: float16)

    3. A node that needs another type reads the value through a Cast, or another copy of a constant. What it needs follows
       from its operator's type constraints at the model's opset: an input or output that float16 is not allowed for stays
       float32, and so does a node that is unknown, makes random numbers, quantizes, handles sequences, or computes sizes.

           NonMaxSuppression(boxes)         ->   NonMaxSuppression(Cast(boxes))

    4. A Cast from float16 is left out: its readers take what it casts. Kernels on integers, and nodes that decode a weight
       when a session is created, stay float32, and so do our operators.

           MatMulNBits(x: float32, Cast(scales))   ->   MatMulNBits(x: float16, scales)

    Attributes:
        keep_io_types: whether inputs and outputs of the graph stay float32, with a Cast each.
        store: function that takes the values of a constant above 1 KiB; by default they stay in the model.
        lowered: knowledge of a model whose weights are encoded already.
    """

    name = "float16"
    summary = "converts a whole graph to float16, with Casts where types change"

    keep_io_types: bool
    store: Store = store_inline
    lowered: Lowered = _NOTHING_ENCODED

    def __call__(self, document: Document) -> Float16Result:
        """Convert the model.

        Raises:
            ModelError: nothing in the model is float32, or its nodes are not in order.
        """
        notes = _inline_functions(document.proto)
        whole = GraphConversion(document, self.store, self.lowered)
        whole.convert(document.proto.graph, None, FLOAT if self.keep_io_types else HALF, [])
        is_float16 = whole.changed or any(constant.half for constant in whole.constants)
        if not is_float16 and self.lowered.types is None:
            reasons = "".join(
                f"; {op_type} computes in float32: {why}" for op_type, why in sorted(whole.in_float32.items())
            )
            raise ModelError(f"{document.name}: holds no float32 to make float16 of{_types(document.proto)}{reasons}")
        notes += [*whole.notes, f"float16 throughout, {whole.casts} Casts added"]
        notes += [f"{op_type} computes in float32: {why}" for op_type, why in sorted(whole.in_float32.items())]
        return Float16Result(
            True,
            tuple(notes),
            Counter(whole.in_float32.values()),
            tuple(whole.constants),
            whole.in_float32,
            whole.casts,
            tuple(whole.scopes),
        )


def _inline_functions(proto: onnx.ModelProto) -> list[str]:
    """Inline the model-local functions of others, in place; a sentence that says so. Ours are bodies of operators."""
    ours = [f for f in proto.functions if f.domain == DOMAIN]
    foreign = [(f.domain, f.name) for f in proto.functions if f.domain != DOMAIN]
    if not foreign:
        return []
    proto.CopyFrom(onnx.inliner.inline_selected_functions(proto, foreign))
    replace_field(proto.functions, ours)
    return [f"model-local functions inlined ({', '.join(name for _, name in foreign[:3])})"]


def _types(proto: onnx.ModelProto) -> str:
    """The types of a model's weights as a remark; empty where none is a float."""
    names = sorted({FLOATS[t.data_type] for t in tensors(proto) if t.data_type in FLOATS and len(t.dims) > 1})
    return f": its weights are {' and '.join(names)} already" if names and "float32" not in names else ""
