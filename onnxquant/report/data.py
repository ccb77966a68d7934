"""The report as data: what was decided, what was written, what it cost."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.errors import OnnxQuantError, ReportError
from onnxquant.graph.io import Document
from onnxquant.numerics.difference import number
from onnxquant.plan.decision import Decision, EncodeDecision, Plan, decision_from_dict
from onnxquant.recipe.options import options_to_report
from onnxquant.report import activations, schema
from onnxquant.report.verdict import HARDLY, LOW_DB, Verdict, verdict
from onnxquant.validation import checks
from onnxquant.validation.compare import Proof
from onnxquant.version import __version__

SCHEMA = 1


@dataclass(frozen=True)
class SiteResult:
    """One weight.

    Attributes:
        decision: what becomes of it.
        error: once it is encoded; with the quick checks of ``validation.checks`` once it is proven.
        warning: where the format does not suit it.
        kernel: that onnxruntime picked, where that is known.
    """

    decision: Decision
    error: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None
    kernel: str | None = None

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        told = (entries.get("error", {}), entries.get("warning"), entries.get("kernel"))
        return cls(decision_from_dict(entries), *told)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        out = self.decision.to_dict()
        if self.error:
            out["error"] = self.error
        if self.warning:
            out["warning"] = self.warning
        if self.kernel:
            out["kernel"] = self.kernel
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
        observed: of static activations, histograms of what calibration saw, by tensor.
        asked: the ``recipe`` as rules in order, and the ``options`` that were given.
        command: the command line, where there was one.
        sha256: hashes by file, of the ``original`` and of the ``output``.
        environment: versions and machine.
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
    observed: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    sha256: dict[str, dict[str, str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: environment())
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
            observed=plan.observed,
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
        self.sites = [_proven(s, proof.weights.get(s.decision.name, {})) for s in self.sites]

    @property
    def planned(self) -> bool:
        """Whether nothing was written yet."""
        return self.output_bytes is None and self.proof is None

    @property
    def verdict(self) -> Verdict:
        """What came out, in figures and in a sentence what to do next."""
        return verdict(self)

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of all constant weights over their number; None where they are not listed."""
        elements = sum(s.decision.elements for s in self.sites)
        return 8 * sum(s.decision.nbytes for s in self.sites) / elements if elements else None

    @property
    def encoded(self) -> list[SiteResult]:
        """Weights that were, or will be, encoded."""
        return [s for s in self.sites if isinstance(s.decision, EncodeDecision)]

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
            out.append(f"an output keeps only {worst:.1f} dB: the file does what it says, but {self.remedy}")
        changed = any(float(w["sqnr_db"]) != math.inf for w in self.proof.weights.values())
        twins = self.proof.outputs.get("float vs twin", {})
        if changed and twins and all(float(d["sqnr_db"]) == math.inf for d in twins.values()):
            out.append("weights changed but no output did: these samples do not exercise them; give --data")
        if self.output_bytes and self.encoded and self.original_bytes < HARDLY * self.output_bytes:
            out.append("hardly smaller: most weights were left as they are; -v says why")
        doubts = {name: checks.doubt(w) for name, w in self.proof.weights.items()}
        return out + [f"{name}: {doubt}" for name, doubt in doubts.items() if doubt]

    @property
    def remedy(self) -> str:
        """What costs accuracy, and what to try."""
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
        data = {
            "schema": SCHEMA,
            "onnxquant": self.environment["onnxquant"],
            "source": self.source,
            "output": self.output,
            "verdict": self.verdict.to_dict(),
            "passed": self.passed,
            "problems": self.proof.problems if self.proof else [],
            "warnings": self.warnings,
            "notes": self.notes,
            "unused_rules": self.unused_rules,
            "original_bytes": self.original_bytes,
            "predicted_bytes": self.predicted_bytes,
            "output_bytes": self.output_bytes,
            "ratio": self.original_bytes / self.output_bytes if self.output_bytes else None,
            "external_data": self.external_data,
            "bits_per_weight": self.bits_per_weight,
            "activations": self.made,
            "observed": self.observed,
            "search": self.search,
            "sites": [s.to_dict() for s in self.sites],
            "proof": _proof(self.proof),
            "asked": self.asked,
            "command": self.command,
            "sha256": self.sha256,
            "environment": self.environment,
        }
        plain: dict[str, Any] = _plain(data)
        return plain

    def to_json(self) -> str:
        """The report as JSON, of the schema that ``onnxquant report --schema`` prints."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the report to a file; its ending chooses .html, .md or .json.

        Raises:
            RecipeError: another ending.
            OutputError: the file exists and may not be replaced, or cannot be written.
        """
        from onnxquant.report import write as files

        files.write(self, files.places([str(path)], Path(self.output or "report"), force=force))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "report") -> Self:
        """The report that ``to_dict`` gave.

        Args:
            data: plain data.
            name: what to call it in errors.

        Raises:
            ReportError: another schema version, or data that does not fit the schema.
        """
        found = data.get("schema") if isinstance(data, dict) else None
        if found != SCHEMA:
            raise ReportError(
                f"{name}: schema is {found!r}, expected {SCHEMA}: a report of another version, or none at all"
            )
        schema.check(data, name)
        try:
            sites = [SiteResult.from_dict(s) for s in data["sites"]]
        except OnnxQuantError as error:  # a format of a package that is not installed here
            raise ReportError(f"{name}: {error}") from None
        told = data["proof"]
        return cls(
            sites=sites, made=data["activations"],
            proof=None if told is None else Proof(**told, problems=data["problems"]),
            **{key: data[key] for key in _KEPT},
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The report that was saved as JSON.

        Raises:
            ReportError: the file is missing, no JSON, or no report of this version.
        """
        try:
            data = json.loads(Path(path).read_bytes(), parse_int=_whole)
        except OSError as error:
            raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, OverflowError, RecursionError) as error:
            raise ReportError(f"{path}: is not JSON: {error}") from None
        return cls.from_dict(data, str(path))


# Fields of Report that are in its data as they are.
_KEPT = (
    "source", "output", "notes", "unused_rules", "predicted_bytes", "original_bytes", "output_bytes", "external_data",
    "search", "observed", "asked", "command", "sha256", "environment",
)  # fmt: skip
_PLAIN = (str, int, float, bool, list, tuple, dict)
_CHECKS = ("sum_test", "gradient_test")


def _proven(site: SiteResult, found: Mapping[str, Any]) -> SiteResult:
    """A site with what the proof found of it."""
    checked = {k: found[k] for k in _CHECKS if k in found}
    return replace(site, error={**site.error, **checked}, kernel=found.get("kernel"))


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as plain data: those that were given, functions by their name."""
    reported = options_to_report(options)
    return {k: v if isinstance(v, _PLAIN) else getattr(v, "__name__", type(v).__name__) for k, v in reported.items()}


def files_of(document: Document) -> list[Path]:
    """A model's file and its data files; none of a model that is an object."""
    return [document.path, *document.data_files()] if document.path else []


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files, by name."""
    out = {}
    for path in paths:
        with path.open("rb") as file:
            out[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def _whole(digits: str) -> int:
    """A whole number of JSON that arithmetic with floats can take."""
    number = int(digits)
    float(number)
    return number


def _plain(value: Any) -> Any:
    """As JSON can hold it: infinities become words, tuples lists."""
    if isinstance(value, float | np.floating):
        return number(float(value))
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


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
