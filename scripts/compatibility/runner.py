"""Runs in an environment that has nothing but numpy and onnxruntime: python runner.py SPEC.json OPTIMIZED_FOLDER.

SPEC has ``library`` (a path), ``operators`` (a model of our operators) and ``cases``. Prints JSON: for each case the SQNR
in dB against float, the median ratio of its time to float's on one thread (runs interleaved) and the file of the graph
that ran, or the error; and for the operators a hash of their outputs.
"""

import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

ROUNDS = 21


def session(path: str, library: str | None = None, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library)
    if optimized:
        options.optimized_model_filepath = str(optimized)
        for key, value in (("file_name", "weights"), ("min_size_in_bytes", "1024")):
            options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def seconds(model: ort.InferenceSession, feed: dict[str, Any]) -> float:
    start = time.perf_counter()
    model.run(None, feed)
    return time.perf_counter() - start


def measure(case: dict[str, Any], library: str, optimized: Path) -> dict[str, Any]:
    about = case["input"]
    values = np.frombuffer(Path(case["feed"]).read_bytes(), about["type"]).reshape(about["shape"])
    feed = {about["name"]: values}
    original = session(case["original"])
    # Not the session that is measured: writing the graph leaves out what depends on this machine.
    quantized = session(case["path"], library if case["library"] else None)
    session(case["path"], library if case["library"] else None, optimized)
    expected, actual = (s.run(None, feed)[0].astype(float) for s in (original, quantized))
    ratios = [seconds(quantized, feed) / seconds(original, feed) for _ in range(ROUNDS)]
    sqnr = float(10 * np.log10((expected**2).sum() / max(((actual - expected) ** 2).sum(), 1e-30)))
    return {"sqnr": sqnr, "ratio": statistics.median(ratios), "optimized": str(optimized)}


def main() -> None:
    spec, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    out = {}
    for number, case in enumerate(spec["cases"]):
        try:
            out[case["key"]] = measure(case, spec["library"], folder / f"{number}.onnx")
        except Exception as error:  # onnxruntime's exceptions share no base class
            out[case["key"]] = {"error": str(error).splitlines()[0]}
    x = np.random.default_rng(0).random((5, 100), dtype=np.float32)
    outputs = session(spec["operators"], spec["library"]).run(None, {"X": x, "indices": np.arange(-33, 33)})
    digest = hashlib.sha256(b"".join(y.tobytes() for y in outputs)).hexdigest()
    print(json.dumps({"cases": out, "operators": digest}))


if __name__ == "__main__":
    main()
