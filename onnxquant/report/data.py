"""The report as data: what was decided, what was written, what it cost."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.graph.io import Document
from onnxquant.plan import Decision, Plan
from onnxquant.report import activations
from onnxquant.validation.compare import Proof
from onnxquant.version import __version__

SCHEMA = 1
# Below this an output has a tenth of its power in errors.
LOW_DB = 10.0


@dataclass(frozen=True)
class SiteResult:
    """One weight: its decision, its error once encoded, and a warning where the format does not suit it."""

    decision: Decision
    error: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        out = self.decision.to_dict()
        if self.error:
            out["error"] = self.error
        if self.warning:
            out["warning"] = self.warning
        return out


@dataclass
class Report:
    """What ``quantize`` and ``validate`` give back.

    Attributes:
        source: name of the original model.
        output: what was written; None for a plan or a comparison.
        sites: every constant weight with its decision and error.
        notes: what the passes changed.
        predicted_bytes: size the plan foretold.
        original_bytes, output_bytes: sizes on disk, data files included.
        made: what becomes of activations; empty where they stay floats.
        search: how formats were chosen under a bound; empty where they were named.
        proof: outcome of the comparison; None when it was not asked for.
    """

    source: str
    output: str | None = None
    sites: list[SiteResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused_rules: list[int] = field(default_factory=list)
    predicted_bytes: int | None = None
    original_bytes: int = 0
    output_bytes: int | None = None
    external_data: bool = False
    made: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    proof: Proof | None = None

    @classmethod
    def of_plan(cls, original: Document, output: Path, plan: Plan, notes: list[str]) -> Report:
        """The report of a plan that is not carried out yet."""
        return cls(
            source=original.name,
            output=str(output),
            sites=[SiteResult(d) for d in plan.decisions],
            notes=notes,
            unused_rules=[i + 1 for i in plan.unused_rules],
            predicted_bytes=plan.predicted_bytes,
            original_bytes=original.size(),
            made=plan.about_activations,
            search=dict(plan.search),
        )

    def finish(self, path: Path, results: dict[str, SiteResult], *, external: bool) -> None:
        """Add what encoding found and what was written."""
        self.sites = [results.get(s.decision.name, s) for s in self.sites]
        data = path.with_name(path.name + ".data")
        self.external_data = external
        self.output_bytes = path.stat().st_size + (data.stat().st_size if external else 0)

    def prove(self, proof: Proof) -> None:
        """Add the proof."""
        self.proof = proof
        self.made = self.made or proof.activations.get("made", {})

    @property
    def encoded(self) -> list[SiteResult]:
        """Weights that were, or will be, encoded."""
        return [s for s in self.sites if s.decision.format]

    @property
    def passed(self) -> bool:
        """Whether the proof and every asked bound hold (true where no proof was asked for)."""
        return self.proof is None or not self.proof.problems

    @property
    def warnings(self) -> list[str]:
        """What the user should know before trusting the result."""
        out = [f"{s.decision.name}: {s.warning}" for s in self.sites if s.warning]
        out += [f"rule {i} of the recipe matched nothing" for i in self.unused_rules]
        if self.proof and self._decoded_on_every_call():
            out.append(
                f"{self._decoded_on_every_call()} DequantizeLinear stay in the graph that onnxruntime runs: those weights "
                f"are decoded on every call; target ort avoids it"
            )
        out += activations.warnings(self.made, self.proof) + self._weight_only()
        out += self._doubts() if self.proof else []
        if self.proof and self.proof.feeds.get("source") == "synthetic":
            out.append("outputs were compared on SYNTHETIC feeds: give --data for figures that mean something")
        return out

    def _doubts(self) -> list[str]:
        """What a passed proof does not say."""
        assert self.proof
        out = []
        worst = min((float(d["sqnr_db"]) for d in self.proof.deployed.values()), default=math.inf)
        if worst < LOW_DB:
            out.append(f"an output keeps only {worst:.1f} dB: the file does what it says, but {self._remedy()}")
        changed = any(float(w["sqnr_db"]) != math.inf for w in self.proof.weights.values())
        twins = self.proof.outputs.get("float vs twin", {})
        if changed and twins and all(float(d["sqnr_db"]) == math.inf for d in twins.values()):
            out.append("weights changed but no output did: these samples do not exercise them; give --data")
        if self.output_bytes and self.encoded and self.original_bytes < 1.05 * self.output_bytes:
            out.append("hardly smaller: most weights were left as they are; -v says why")
        return out

    def _remedy(self) -> str:
        assert self.proof
        twin = min((float(d["sqnr_db"]) for d in self.proof.outputs.get("float vs twin", {}).values()), default=0.0)
        if self.made and twin >= LOW_DB:
            return (
                "rounding activations costs this model its accuracy; try --auto-exclude, more or other samples, or another "
                "--calibration-method"
            )
        return (
            "the format costs this model its accuracy; try more bits, or keep sensitive weights in float with --exclude"
        )

    def _weight_only(self) -> list[str]:
        """Weights that dynamic activations pass by."""
        if self.made.get("kind") != "dynamic":
            return []
        convs = [s for s in self.encoded if s.decision.role == "conv" and s.decision.target != "dynamic"]
        if not convs:
            return []
        return [
            f"{len(convs)} convolutions compute in float, only their weights are smaller: ConvInteger, which would round "
            f"their inputs per call, takes many times the time of float; --activations static computes them on integers"
        ]

    def _decoded_on_every_call(self) -> int:
        assert self.proof
        if "conversions" in self.proof.activations:
            rows = self.proof.activations["conversions"]
            return sum(r["op"] == "DequantizeLinear" and r["between"][0] == "weight" for r in rows)
        ours: int = self.proof.structure["added_ops"].get("DequantizeLinear", 0)
        return min(ours, self.proof.kernels.get("stock", {}).get("DequantizeLinear", 0))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the same as ``to_json``."""
        elements = sum(s.decision.elements for s in self.sites)
        return {
            "schema": SCHEMA,
            "onnxquant": __version__,
            "source": self.source,
            "output": self.output,
            "passed": self.passed,
            "problems": self.proof.problems if self.proof else [],
            "warnings": self.warnings,
            "notes": self.notes,
            "original_bytes": self.original_bytes,
            "predicted_bytes": self.predicted_bytes,
            "output_bytes": self.output_bytes,
            "ratio": self.original_bytes / self.output_bytes if self.output_bytes else None,
            "external_data": self.external_data,
            "bits_per_weight": 8 * sum(s.decision.nbytes for s in self.sites) / elements if elements else None,
            "activations": self.made,
            "search": self.search,
            "sites": [s.to_dict() for s in self.sites],
            "proof": _proof(self.proof),
            "environment": environment(),
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=2)


def environment() -> dict[str, str]:
    """Versions and machine, for whoever reads the figures later."""
    return {
        "onnxquant": __version__,
        "onnxruntime": runtime.version(),
        "onnx": str(onnx.__version__),
        "numpy": str(np.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "instruction_sets": ", ".join(runtime.instruction_sets()),
    }


def _proof(proof: Proof | None) -> dict[str, Any] | None:
    return None if proof is None else {k: v for k, v in vars(proof).items() if k != "problems"}
