"""The tools compared: their environments with pinned versions, their variants, and one conversion in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = Path.home() / ".cache" / "onnxquant-bench" / "peers"
# Of each tool; none: the environment of this script. torch==2.13.0 is the CPU build where a wheel folder has it.
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "onnxquant": (),
    "onnxruntime": (),
    "gguf": (),
    "nncf": ("nncf==3.4.0", "onnx==1.21.0", "onnxruntime==1.31.1"),
    "quark": ("amd-quark==0.13", "onnx==1.22.0", "onnxruntime==1.31.1", "torch==2.13.0"),
    # It imports the last two without asking for them.
    "inc": ("onnx-neural-compressor==1.0", "onnxruntime==1.31.1", "prettytable==3.18.0", "scipy==1.17.1"),
    "aimet": ("aimet-onnx==2.42.0", "torch==2.13.0", "onnxruntime==1.31.1"),
}


@dataclass(frozen=True)
class Variant:
    """A tool with its options.

    Attributes:
        name: name in tables.
        tool: key of ``REQUIREMENTS`` and of the worker ``run_<tool>.py``.
        only_encoders: left out for other models.
        worker: module that does the work, where it is another.
    """

    name: str
    tool: str
    options: Mapping[str, Any] = field(default_factory=dict)
    only_encoders: bool = False
    worker: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.tool == "onnxquant"


OURS = (
    Variant("ours", "onnxquant", {"activations": "static"}),
    Variant("ours exclude", "onnxquant", {"activations": "static", "auto_exclude": True}),
    Variant("ours dynamic", "onnxquant", {"activations": "dynamic"}, only_encoders=True),
)
PEERS = (
    Variant("ort minmax", "onnxruntime", {"method": "MinMax"}),
    Variant("ort entropy", "onnxruntime", {"method": "Entropy"}),
    Variant("ort percentile", "onnxruntime", {"method": "Percentile", "extra": {"CalibPercentile": 99.99}}),
    Variant("ort dynamic", "onnxruntime", {"method": "dynamic"}, only_encoders=True),
    Variant("nncf", "nncf"),
    Variant("quark", "quark", {"preset": "U8S8_AAWS"}),
    Variant("quark channel", "quark", {"preset": "INT8_CNN_DEFAULT", "changes": {"per_channel": True}}),
    Variant("inc", "inc"),
    Variant("aimet", "aimet"),
)


@dataclass(frozen=True)
class Conversion:
    """Result of one conversion."""

    output: Path
    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0
    version: str = ""
    error: str = ""
    notes: tuple[str, ...] = ()


def python_of(tool: str) -> tuple[Path, str]:
    """The interpreter of a tool's environment, made first where it is missing; or why there is none."""
    requirement = REQUIREMENTS[tool]
    if not requirement:
        return Path(sys.executable), ""
    folder = ENVIRONMENTS / tool
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    text = "\n".join(requirement)
    if stamp.exists() and stamp.read_text() == text:
        return python, ""
    print(f"installing {', '.join(requirement)} into {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:", *requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        return python, f"not installed: {lines[0] if lines else done.stderr.strip()[:200]}"
    stamp.write_text(text)
    return python, ""


def convert(
    variant: Variant, model: Path, calibration: Path, folder: Path, *, encoder: bool, limit: float
) -> Conversion:
    """Run a variant's worker on one model, for at most ``limit`` seconds."""
    stem = variant.name.replace(" ", "_")
    output, result, log = (folder / f"{stem}{end}" for end in (".onnx", ".json", ".log"))
    python, reason = python_of(variant.tool)
    if reason:
        return Conversion(output, error=reason)
    job = {"model": model, "calibration": calibration, "output": output, "result": result, "encoder": encoder}
    path = folder / f"{stem}.job.json"
    path.write_text(json.dumps({**{k: v if isinstance(v, bool) else str(v) for k, v in job.items()},
                                "options": dict(variant.options)}))  # fmt: skip
    folders = [HERE.parent, *([ROOT] if variant.ours else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONWARNINGS": "ignore"}
    with log.open("w") as out:
        try:
            command = [str(python), "-m", variant.worker or f"peer_bench.run_{variant.tool}", str(path)]
            code = subprocess.run(
                command, stdout=out, stderr=out, env=environment, cwd=folder, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return Conversion(output, error=f"stopped after {limit:.0f} s")
    if not result.exists():
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        return Conversion(output, error=f"exit code {code.returncode}: {' '.join(last)[:200]}")
    report = json.loads(result.read_text())
    if not report.get("error") and not output.exists():
        report["error"] = "nothing written"
    return Conversion(
        output,
        seconds=report.get("seconds", 0.0),
        processor_seconds=report.get("processor_seconds", 0.0),
        peak_bytes=report.get("peak_bytes", 0),
        version=report.get("version", ""),
        error=report.get("error", "")[:300],
        notes=tuple(report.get("notes", ())),
    )
