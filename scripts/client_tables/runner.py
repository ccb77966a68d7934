"""Runs in an environment that has nothing but numpy and onnxruntime: python runner.py FOLDER.

Prints JSON: the release, the kernels and operators that it registers for CPUs, and of each model in FOLDER whether it
loads and runs (null) or the error.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

CPU = "CPUExecutionProvider"
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def error(path: Path) -> str | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(str(path), options, providers=[CPU])
        shapes = {i: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}
        session.run(None, {i.name: np.zeros(shape, TYPES[i.type]) for i, shape in shapes.items()})
    except Exception as failure:  # whatever the binding raises is the answer
        return f"{failure}"
    return None


kernels = [
    [k.domain, k.op_name, *k.version_range, {name: sorted(types) for name, types in k.type_constraints.items()}]
    for k in state.get_all_opkernel_def()
    if k.provider == CPU
]
operators = [
    [s.domain, s.name, s.since_version, [p.typeStr for p in s.inputs], [p.typeStr for p in s.outputs]]
    for s in state.get_all_operator_schema()
]
probes = {path.stem: error(path) for path in sorted(Path(sys.argv[1]).glob("*.onnx"))}
print(json.dumps({"release": ort.__version__, "kernels": kernels, "operators": operators, "probes": probes}))
