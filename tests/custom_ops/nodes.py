"""Models of one node of our domain, honest or lying."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import kernels
import numpy as np
import onnx
import onnxruntime as ort
from ml_dtypes import bfloat16
from onnx import TensorProto, helper, numpy_helper

from onnxquant.native import library as native

DOMAIN = "onnxquant"
TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(bfloat16): TensorProto.BFLOAT16,
}


@dataclass
class Node:
    """What a model of one node holds; everything may be changed to a lie."""

    kernel: str  # MatMul or Gather
    stored: kernels.StoredWeight
    dtype: Any = np.float32  # of X, or of the indices
    shape: Any = None  # declared for X or the indices; None: ["batch", K] or ["batch"]
    attributes: dict[str, Any] = field(default_factory=dict)
    planes: dict[str, Any] = field(default_factory=dict)  # instead of the weight's own
    bias: Any = None
    dropped: tuple[str, ...] = ()  # inputs or attributes to leave out
    fed: tuple[str, ...] = ()  # planes that are graph inputs instead of initializers
    computed: tuple[str, ...] = ()  # planes that a node computes from the graph's input
    op_type: str | None = None

    def model(self, out_shape: Any = None) -> bytes:
        weight = self.stored
        geometry = kernels.geometry(weight.format)
        order = [*geometry.planes, *([kernels.PERMUTATION] if kernels.PERMUTATION in weight.planes else [])]
        planes = {name: self.planes.get(name, weight.planes[name]) for name in order}
        matmul = self.kernel == "MatMul"
        first = "X" if matmul else "indices"
        shape = self.shape if self.shape is not None else ["batch", weight.cols] if matmul else ["batch"]
        names = [first, *planes] if matmul else [*planes, first]
        if self.bias is not None:
            names.append("bias")
            planes["bias"] = self.bias
        names = [n for n in names if n not in self.dropped]
        ending = ("Permuted" if kernels.PERMUTATION in weight.planes else "") + (
            "Bias" if self.bias is not None else ""
        )
        attributes = {"N": weight.rows, "K": weight.cols, "block_size": weight.block_size, **self.attributes}
        attributes = {k: v for k, v in attributes.items() if k not in self.dropped}
        op_type = self.op_type or f"{self.kernel}{geometry.suffix}{ending}"
        node = helper.make_node(op_type, names, ["Y"], domain=DOMAIN, **attributes)
        elem = TYPES[np.dtype(self.dtype)]
        inputs = [helper.make_tensor_value_info(first, elem, shape)]
        nodes, initializers = [node], []
        for name, plane in planes.items():
            if name in self.fed:
                inputs.append(helper.make_tensor_value_info(name, TYPES[plane.dtype], plane.shape))
            elif name in self.computed:
                inputs.append(helper.make_tensor_value_info(f"{name}_source", TYPES[plane.dtype], plane.shape))
                nodes.insert(0, helper.make_node("Identity", [f"{name}_source"], [name]))
            else:
                initializers.append(numpy_helper.from_array(plane, name))
        y = helper.make_tensor_value_info("Y", elem if matmul else TensorProto.FLOAT, out_shape)
        graph = helper.make_graph(nodes, "g", inputs, [y], initializers)
        imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def session(model: bytes, threads: int = 1, optimize: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(native.library_path()))
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def parsed(model: bytes) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model)
