"""A model for one rate and one shape: what stands in branches of an If comes into the main graph, where tools look for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

# Values of inputs that decide which branch runs.
FIXED: Mapping[str, Mapping[str, int]] = {"silero_vad": {"sr": 16_000}}


def specialize(source: Path, output: Path, fixed: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> Path:
    """Write the model with inputs made constant and shapes fixed, its Ifs decided by onnxruntime's constant folding.

    One after the other: both at once crash onnxruntime 1.31.1.
    """
    model = onnx.load(source)
    for value in [v for v in model.graph.input if v.name in fixed]:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(np.array(fixed[value.name], kind), value.name))
        model.graph.input.remove(value)
    model = _folded(model, output)
    for value in model.graph.input:
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shapes[value.name]))
    model = _folded(model, output)
    onnx.checker.check_model(model)
    return output


def _folded(model: onnx.ModelProto, output: Path) -> onnx.ModelProto:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(output), 4
    ort.InferenceSession(model.SerializeToString(), options)
    folded = onnx.load(output)
    used = {node.domain for node in folded.graph.node}
    imports = [entry for entry in folded.opset_import if entry.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(imports)
    onnx.save(folded, output)
    return folded
