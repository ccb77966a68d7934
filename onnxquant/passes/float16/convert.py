"""Conversion of a whole graph to float16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
import onnx.inliner
import onnx.shape_inference

from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.sites import FLOATS
from onnxquant.graph.traverse import tensors
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.float16.conversion import GraphConversion
from onnxquant.passes.float16.scope import FLOAT, HALF
from onnxquant.passes.float16.values import ConvertedConstant, Store, store_inline


@dataclass(frozen=True)
class Float16Result(PassResult):
    """The result of a conversion to float16.

    Attributes:
        constants: every float32 constant.
        in_float32: reason by operator for nodes that compute in float32.
        casts: number of Casts added.
    """

    constants: tuple[ConvertedConstant, ...] = ()
    in_float32: Mapping[str, str] = field(default_factory=dict)
    casts: int = 0


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

    Attributes:
        keep_io_types: whether inputs and outputs of the graph stay float32, with a Cast each.
        store: function that takes the values of a constant above 1 KiB; by default they stay in the model.
    """

    name = "float16"
    summary = "converts a whole graph to float16, with Casts where types change"

    keep_io_types: bool
    store: Store = store_inline

    def __call__(self, document: Document) -> Float16Result:
        """Convert the model.

        Raises:
            ModelError: nothing in the model is float32, or its nodes are not in order.
        """
        notes = []
        if document.proto.functions:
            names = ", ".join(f.name for f in document.proto.functions[:3])
            document.proto.CopyFrom(onnx.inliner.inline_local_functions(document.proto))
            del document.proto.functions[:]
            notes.append(f"model-local functions inlined ({names})")
        whole = GraphConversion(document, self.store)
        whole.convert(document.proto.graph, None, FLOAT if self.keep_io_types else HALF, [])
        if not whole.changed and not any(constant.half for constant in whole.constants):
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
        )


def _types(proto: onnx.ModelProto) -> str:
    """The types of a model's weights as a remark; empty where none is a float."""
    names = sorted({FLOATS[t.data_type] for t in tensors(proto) if t.data_type in FLOATS and len(t.dims) > 1})
    return f": its weights are {' and '.join(names)} already" if names and "float32" not in names else ""
