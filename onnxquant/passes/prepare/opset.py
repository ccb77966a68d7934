"""Conversion to a newer opset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx
import onnx.version_converter

from onnxquant.graph.io import Document
from onnxquant.passes.base import Pass, PassResult


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Converts a model to a newer opset by onnx's version converter, which rewrites nodes.

    The converter knows only standard ops and can fail: whoever runs this pass compares the outputs of both models.

    1. Nodes are rewritten for the new opset; the IR version does not fall.

           Squeeze(x) with axes   ->   Squeeze(x, axes)

    2. Inputs and outputs keep the types and shapes that they had, where the converter writes inferred ones.
    3. A model that the converter cannot read, or has a newer opset already, stays.

    Attributes:
        version: the new opset.
    """

    name = "convert-opset"
    summary = "converts the model to a newer opset by onnx's version converter"

    version: int

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        before = document.opset
        if self.version <= before:
            return PassResult()
        try:
            converted = onnx.version_converter.convert_version(document.proto, self.version)
        except Exception as error:  # the converter raises RuntimeError, ValueError and its own
            reason = f"the conversion to {self.version} failed ({str(error).splitlines()[0]})"
            return PassResult(notes=(f"opset stays {before}: {reason}",), refusals=Counter([reason]))
        converted.ir_version = max(document.proto.ir_version, converted.ir_version)
        for kind in ("input", "output"):
            originals = getattr(document.proto.graph, kind)
            for value, original in zip(getattr(converted.graph, kind), originals, strict=True):
                value.CopyFrom(original)
        document.proto.CopyFrom(converted)
        return PassResult(True, (f"opset converted from {before} to {self.version}",))
