"""Sessions of onnxruntime; no other room imports onnxruntime.

It may import native, graph, formats and numerics; solvers, targets and the rooms above may import it.
"""

from onnxquant.runtime.buffers import Buffer, run_on_buffers, zeros
from onnxquant.runtime.extended import (
    ExtendableModel,
    extendable,
    output_addition,
    session_of,
    shape_addition,
    shape_output,
    subgraph_tensors,
)
from onnxquant.runtime.libraries import EXTENSIONS, custom_op_libraries, named_libraries
from onnxquant.runtime.optimized import Kernels, histogram, op_name, optimized_graph, optimized_ops
from onnxquant.runtime.profile import NodeTime, profile
from onnxquant.runtime.sessions import (
    Session,
    inputs_of,
    instruction_sets,
    load,
    open_session,
    outputs_of,
    run,
    session_options,
    version,
)
from onnxquant.runtime.signatures import Signature, signatures
from onnxquant.runtime.trace import Call, Run, Trace, TracedTensor, end_trace, trace_into

__all__ = [
    "EXTENSIONS",
    "Buffer",
    "Call",
    "ExtendableModel",
    "Kernels",
    "NodeTime",
    "Run",
    "Session",
    "Signature",
    "Trace",
    "TracedTensor",
    "custom_op_libraries",
    "end_trace",
    "extendable",
    "histogram",
    "inputs_of",
    "instruction_sets",
    "load",
    "named_libraries",
    "op_name",
    "open_session",
    "optimized_graph",
    "optimized_ops",
    "output_addition",
    "outputs_of",
    "profile",
    "run",
    "run_on_buffers",
    "session_of",
    "session_options",
    "shape_addition",
    "shape_output",
    "signatures",
    "subgraph_tensors",
    "trace_into",
    "version",
    "zeros",
]
