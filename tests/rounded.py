"""Models with codes for activations, made in tests without calibration: ranges are what some samples have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from agreement import outputs
from numpy.typing import NDArray

from onnxquant.activations.insert import NodeForms
from onnxquant.activations.placement import Cause, FloatKernel, place
from onnxquant.activations.plan import StaticActivations
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.names import ACTIVATION
from onnxquant.observers.codes import Codes

Feed = Mapping[str, NDArray[Any]]


def values(proto: onnx.ModelProto, names: list[str], feed: Feed) -> dict[str, NDArray[Any]]:
    """Tensors of the float model, intermediate ones too."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    for name in names:
        shown.graph.output.add(name=name)
    inputs = [name for name in names if name in feed]
    for name in inputs:  # onnxruntime gives no input back
        shown.graph.node.add(op_type="Identity", input=[name], output=[f"{name}/given"])
        next(o for o in shown.graph.output if o.name == name).name = f"{name}/given"
    found = outputs(shown, feed)
    return {name: found[f"{name}/given" if name in inputs else name] for name in names}


def static(proto: onnx.ModelProto, feed: Feed, codes: Codes | None = None, *excluded: str) -> StaticActivations:
    """What becomes of the activations of a float model."""
    codes = codes or Codes()
    found = place(
        GraphEditor(proto.graph),
        dict.fromkeys(excluded, FloatKernel(Cause.WEIGHT, "excluded")),
        clamps=not codes.symmetric,
    )
    seen = values(proto, found.sources, feed)
    ranges = {name: (float(v.min()), float(v.max())) for name, v in seen.items()}
    return StaticActivations(
        codes=codes,
        tensors=tuple(found.tensors.values()),
        ranges=ranges,
        method="minmax",
        forms=NodeForms(found.split_gemms),
    )


def inserted(proto: onnx.ModelProto, feed: Feed, codes: Codes | None = None) -> onnx.ModelProto:
    """A copy of a float model with the conversions; its weights stay floats."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    static(proto, feed, codes).insert(made)
    return made


def marked(proto: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    """The conversions of activations."""
    return [n for n in proto.graph.node if n.op_type == op and any(e.key == ACTIVATION for e in n.metadata_props)]


def optimized(proto: onnx.ModelProto, feed: Feed) -> dict[str, Any]:
    """What onnxruntime makes of a feed as it is deployed."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feed)), strict=True))


def sqnr_db(expected: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal to noise ratio in float64."""
    a, b = expected.astype(np.float64), got.astype(np.float64)
    noise = float(((a - b) ** 2).sum())
    return 10 * float(np.log10((a**2).sum() / noise)) if noise else float("inf")
