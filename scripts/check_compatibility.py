"""Which onnxruntime runs what, by which kernels, and how fast: every format and target in four models on several releases.

Each release is installed into a virtual environment of its own; files run there on stock onnxruntime, without this
package. Files of our operators also run on the compiled library, which must compute the same bytes everywhere. With
``--web`` the releases are those of onnxruntime-web, installed by npm and run by node. Exit code 1 where a file does not
load although ``info`` says so, loads although it says not, or computes something else than on the newest release.

    python scripts/check_compatibility.py --write
    python scripts/check_compatibility.py --web --write
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compatibility.files import DIGITS, Case, cases, make_operators
from compatibility.tables import Results, faults, kernels, tables

import onnxquant

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compatibility.md"
VERSIONS = ["1.23.2", "1.24.4", "1.27.0", "1.32.0"]
WEB_VERSIONS = ["1.23.2", "1.27.0", "1.30.0"]
RUNNERS = Path(__file__).parent / "compatibility"


def output(command: Sequence[str | Path], folder: Path) -> str:
    """The text that a command prints; its errors end the program."""
    done = subprocess.run([str(c) for c in command], cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def run_native(version: str, spec: Path, folder: Path) -> dict[str, Any]:
    """Results of one release of onnxruntime."""
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    output([*install, f"onnxruntime=={version}", "numpy"], folder)
    report: dict[str, Any] = json.loads(output([python, RUNNERS / "runner.py", spec, folder], folder))
    for key, result in report["cases"].items():
        if "optimized" in result:
            result["kernels"] = kernels(Path(result.pop("optimized")), single=not key.startswith(DIGITS))
    return report


def run_web(version: str, spec: Path, folder: Path) -> dict[str, Any]:
    """Results of one release of onnxruntime-web."""
    output(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"onnxruntime-web@{version}"], folder)
    runtime = folder / "node_modules" / "onnxruntime-web" / "dist" / "ort.node.min.mjs"
    report: dict[str, Any] = json.loads(output(["node", RUNNERS / "runner.mjs", spec, runtime], folder))
    return report


def on_the_web(case: Case) -> bool:
    """Whether a case is run there: no library, and convolutions only as the embedded model has them."""
    return not case.library and case.model != "convolution"


def write(text: str, kind: str) -> None:
    """Put the tables between their markers."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {kind}: written by scripts/check_compatibility.py -->", f"<!-- end of {kind} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Print the tables, or write them into docs/compatibility.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", help="oldest first")
    parser.add_argument("--web", action="store_true", help="releases of onnxruntime-web")
    parser.add_argument("--write", action="store_true", help="into docs/compatibility.md")
    arguments = parser.parse_args()
    versions = arguments.versions or (WEB_VERSIONS if arguments.web else VERSIONS)
    run, kind = (run_web, "web") if arguments.web else (run_native, "releases")
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        selected: list[Case] = [c for c in cases(home) if not arguments.web or on_the_web(c)]
        make_operators(home / "operators.onnx")
        shared = {"library": str(onnxquant.library_path()), "operators": str(home / "operators.onnx")}
        spec = home / "spec.json"
        spec.write_text(json.dumps({"cases": [c.spec() for c in selected], **shared}))
        results: Results = {}
        digests = set()
        for version in versions:
            print(f"{version} ...", file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                ran = run(version, spec, Path(folder))
            results[version] = ran["cases"]
            digests.add(ran.get("operators"))
        needs = {c.key: onnxquant.info(c.path).needs_onnxruntime or "none" for c in selected}
    text = tables(selected, results, needs)
    wrong = faults(selected, results, needs)
    if len(digests) > 1:
        wrong.append(f"our operators compute {len(digests)} different results")
    if arguments.write:
        write(text, kind)
    else:
        print(text)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
