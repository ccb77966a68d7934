"""Formats of llama.cpp, by the gguf package: each matrix is encoded and decoded again, and the model stays one of floats.

What the encoded matrices would take is left in the model's metadata, for whoever counts bits per weight.
"""

from __future__ import annotations

import gguf
import numpy as np
import onnx
from onnx import numpy_helper
from peer_bench.job import Job, run

from accuracy_bench.size import SAVED


def convert(job: Job) -> None:
    """Encode and decode the matrices of MatMul and Gather along what is summed over, or along a row of a table."""
    model = onnx.load(job.model)
    kind = gguf.GGMLQuantizationType[job.options["kind"]]
    table_kind = gguf.GGMLQuantizationType[job.options.get("tables", kind.name)]
    tables = {n.input[0] for n in model.graph.node if n.op_type == "Gather"}
    products = {n.input[1] for n in model.graph.node if n.op_type == "MatMul"}
    saved = 0
    for tensor in model.graph.initializer:
        if len(tensor.dims) != 2 or tensor.name not in tables | products:
            continue
        matrix, table = numpy_helper.to_array(tensor), tensor.name in tables
        tensor_kind = table_kind if table else kind
        codes = gguf.quants.quantize(np.ascontiguousarray(matrix if table else matrix.T), tensor_kind)
        decoded = gguf.quants.dequantize(codes, tensor_kind)
        saved += matrix.nbytes - codes.nbytes
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(decoded if table else decoded.T), name))
    model.metadata_props.add(key=SAVED, value=str(saved))
    onnx.save(model, job.output)


if __name__ == "__main__":
    run("gguf", convert)
