"""Which onnxruntime loads and runs what: every format and target of the embedded model on several releases.

Each release is installed into a virtual environment of its own; files run there on stock onnxruntime, without this
package. Prints Markdown: the SQNR in dB against float, or why a file does not load.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

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


def run_on(version: str, folder: Path, files: dict[str, Path]) -> dict[str, float | str]:
    """Results of one release by file."""
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
    return {name: by_path[str(path)] for name, path in files.items()}


def main() -> None:
    """Print the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = make_files(folder)
        results = {}
        for version in arguments.versions:
            print(f"onnxruntime {version} ...", file=sys.stderr)
            results[version] = run_on(version, folder, files)
        print("| format, target | " + " | ".join(arguments.versions) + " | `info` says |")
        print("|---|" + "---|" * (len(arguments.versions) + 1))
        for name, path in files.items():
            cells = [results[v][name] for v in arguments.versions]
            shown = [f"{c:.1f}" if isinstance(c, float) else "does not load" for c in cells]
            print(f"| {name} | " + " | ".join(shown) + f" | >= {onnxquant.info(path)['needs_onnxruntime']} |")


if __name__ == "__main__":
    main()
