"""Conversion of a model whose weights are encoded to float16, with its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.artifact.records import Record
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import Sink
from onnxquant.passes.float16.conversion import Lowered
from onnxquant.passes.float16.convert import ConvertToFloat16, Float16Result
from onnxquant.passes.float16.scope import FLOAT, HALF
from onnxquant.plan.decision import Float16Plan
from onnxquant.targets import Result


def convert_to_float16(
    document: Document, proto: onnx.ModelProto, plan: Float16Plan, records: Sequence[Record], sink: Sink
) -> Float16Result:
    """Convert all that stays in float to float16, in place.

    Args:
        document: the float model, which holds the values of constants.
        proto: that model with encoded weights.
        plan: the types that inputs and outputs get, and knowledge of the float model.
        records: records of the encoded weights.
        sink: receiver of the values of large constants.
    """

    def store(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
        sink.store(tensor, values.nbytes, lambda: np.ascontiguousarray(values))

    planes = frozenset(name for record in records for name in record.plane_names)
    lowered = Lowered(planes, plan.unfit, plan.types)
    converted = document.copy()
    converted.proto.CopyFrom(proto)
    outcome = ConvertToFloat16(plan.keep_io_types, store, lowered)(converted)
    proto.CopyFrom(converted.proto)
    return outcome


def converted_record(record: Record, outcome: Float16Result) -> Record:
    """The record of a weight whose products may be float16 now."""
    results = [_renamed(result, outcome) for result in record.results]
    if record.elem_type == FLOAT and all(result.half for result in results):
        return replace(record, elem_type=HALF, results=tuple(replace(r, half=None) for r in results))
    return replace(record, results=tuple(results))


def _renamed(result: Result, outcome: Float16Result) -> Result:
    """A result with the names that its tensors have now."""
    kind = outcome.kind(result.y)
    if kind is None:
        return result
    x, y, bias = (outcome.named(name, kind) for name in (result.x, result.y, result.bias))
    return replace(result, x=x, y=y, bias=bias, half=True if kind == HALF else None)
