"""Which onnxruntime loads and runs what: every format and target of the embedded model on several releases.

Each release is installed into a virtual environment of its own; files run there on stock onnxruntime, without this
package. One operator of each kind also runs on the compiled library, whose results must be the same bytes everywhere.
Prints Markdown: the SQNR in dB against float, or why a file does not load.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxquant

MODEL = Path(__file__).resolve().parents[1] / "models" / "default.onnx"
VERSIONS = ["1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.29.0", "1.31.1"]
# Runs inside the other environment: nothing but numpy and onnxruntime is there.
RUNNER = """
import json, sys, numpy, onnxruntime
x = numpy.random.default_rng(0).random((16, 1, 28, 28), dtype=numpy.float32)
def run(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options).run(None, {"image": x})[0].astype(float)
expected = run(sys.argv[1])
out = {}
for path in sys.argv[2:]:
    try:
        out[path] = float(10 * numpy.log10((expected**2).sum() / ((run(path) - expected) ** 2).sum()))
    except Exception as error:
        out[path] = str(error).splitlines()[0][:80]
print(json.dumps(out))
"""
# As above, with the operators of the library; prints a hash of all outputs, or the error.
LIBRARY_RUNNER = """
import hashlib, sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.register_custom_ops_library(sys.argv[1])
x = numpy.random.default_rng(0).random((5, 100), dtype=numpy.float32)
outputs = onnxruntime.InferenceSession(sys.argv[2], options).run(None, {"X": x, "indices": numpy.arange(-33, 33)})
print(hashlib.sha256(b"".join(y.tobytes() for y in outputs)).hexdigest())
"""


def make_operators(path: Path) -> None:
    """A product and a lookup of one weight, with nothing but our operators."""
    random = np.random.default_rng(0)
    planes = {
        "codes": random.integers(0, 256, (3, 16, 16, 4), np.uint8),
        "scales": random.random((3, 4, 16), np.float32).astype(np.float16),
    }
    sizes: dict[str, Any] = {"domain": "onnxquant", "N": 33, "K": 100, "block_size": 32}
    nodes = [
        helper.make_node("MatMulQ4_0", ["X", *planes], ["Y"], **sizes),
        helper.make_node("GatherQ4_0", [*planes, "indices"], ["rows"], **sizes),
    ]
    inputs = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 100]),
        helper.make_tensor_value_info("indices", TensorProto.INT64, ["count"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "rows")]
    initializers = [numpy_helper.from_array(plane, name) for name, plane in planes.items()]
    graph = helper.make_graph(nodes, "operators", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("onnxquant", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)


def run_library(python: str, path: Path) -> str:
    """Hash of what the library computes in another environment, or the last line of why it does not."""
    command = [python, "-c", LIBRARY_RUNNER, str(onnxquant.library_path()), str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def make_files(folder: Path) -> dict[str, Path]:
    """One file per format and target that does not refuse the model."""
    files = {}
    for form in onnxquant.formats():
        for target in ["auto", *(t.name for t in onnxquant.targets())]:
            path = folder / f"{form.name}.{target}.onnx"
            try:
                onnxquant.quantize(MODEL, path, format=form.name, target=target, proof=False)
            except onnxquant.ModelError:
                continue
            files[f"{form.name} {target}"] = path
    return files


def run_on(version: str, folder: Path, files: dict[str, Path]) -> tuple[dict[str, float | str], str]:
    """Results of one release by file, and the hash of what the library computes there."""
    home = folder / f"venv-{version}"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        f"onnxruntime=={version}",
        "numpy",
    ]
    subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    command = [python, "-c", RUNNER, str(MODEL), *map(str, files.values())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    by_path: dict[str, float | str] = json.loads(done.stdout)
    library = run_library(python, folder / "operators.onnx")
    return {name: by_path[str(path)] for name, path in files.items()}, library


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = make_files(folder)
        make_operators(folder / "operators.onnx")
        results, hashes = {}, {}
        for version in arguments.versions:
            print(f"onnxruntime {version} ...", file=sys.stderr)
            results[version], hashes[version] = run_on(version, folder, files)
        print("| format, target | " + " | ".join(arguments.versions) + " | `info` says |")
        print("|---|" + "---|" * (len(arguments.versions) + 1))
        for name, path in files.items():
            cells = [results[v][name] for v in arguments.versions]
            shown = [f"{c:.1f}" if isinstance(c, float) else "does not load" for c in cells]
            print(f"| {name} | " + " | ".join(shown) + f" | >= {onnxquant.info(path)['needs_onnxruntime']} |")
        print("| the library's operators | " + " | ".join(h[:12] for h in hashes.values()) + " | the same bytes |")
        if len(set(hashes.values())) != 1:
            sys.exit("the library's operators differ among releases: " + str(hashes))


if __name__ == "__main__":
    main()
