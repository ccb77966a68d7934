"""Reports as JSON data, and JSON data as reports: the one place for both. The schema is in ``schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, cast

from onnxquant.budget.result import FormatSearchResult
from onnxquant.errors import OnnxQuantError, ReportError
from onnxquant.json_data import JsonObject, JsonValue, from_json, to_json, to_object
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.observers.histogram import HistogramSummary
from onnxquant.plan.activations import read_activations
from onnxquant.plan.decision import decision_from_dict
from onnxquant.plan.tuning import TuningRecord
from onnxquant.pruning.records import PruningRecord
from onnxquant.report import schema
from onnxquant.report.data import Choice, FileHashes, Float16Error, Judgement, ReportData, Request, SiteResult, Verdict
from onnxquant.report.state import OLD_NAMES
from onnxquant.report.verdict import verdict_of
from onnxquant.report.warnings import warnings
from onnxquant.validation.checks import WeightChecks
from onnxquant.validation.proof import Problem, Proof

SCHEMA = 2
# Reports of schema 1 lack fields that may be missing, and have other names of states.
READABLE = (1, 2)
R = TypeVar("R", bound=ReportData)


def report_to_json(report: ReportData) -> JsonObject:
    """JSON data of a report."""
    return {
        "schema": SCHEMA,
        "onnxquant": report.environment["onnxquant"],
        "source": report.source,
        "output": report.output,
        "verdict": to_json(verdict_of(report)),
        "passed": not verdict_of(report).state.is_failure,
        "problems": to_json(report.problems),
        "warnings": to_json(warnings(report)),
        "notes": to_json(report.notes),
        "unused_rules": to_json(report.unused_rules),
        "original_bytes": report.original_bytes,
        "predicted_bytes": report.predicted_bytes,
        "output_bytes": report.output_bytes,
        "ratio": report.ratio,
        "external_data": report.external_data,
        "bits_per_weight": report.bits_per_weight,
        "activations": to_object(report.activations or {}),
        "observed": to_json(report.observed),
        "search": to_object(report.search or {}),
        **({"choice": to_object(report.choice)} if report.choice else {}),
        **({"tuning": to_object(report.tuning)} if report.tuning else {}),
        **({"pruning": to_object(report.pruning)} if report.pruning else {}),
        **({"kept_codes": report.kept_codes} if report.kept_codes else {}),
        **({"prospect": report.prospect} if report.prospect else {}),
        "sites": [_write_site(s) for s in report.sites],
        "proof": None if report.proof is None else _write_proof(report.proof),
        "asked": to_object(report.request or {}),
        "command": report.command,
        "sha256": to_json(report.hashes),
        "environment": to_json(report.environment),
    }


def _write_site(site: SiteResult) -> JsonObject:
    out = to_object(site.decision.to_dict())
    if site.error is not None:
        out["error"] = to_object(site.error) | to_object(site.checks or {})
    out |= {"warning": site.warning} if site.warning else {}
    out |= {"kernel": site.kernel} if site.kernel else {}
    return out


def _write_proof(proof: Proof) -> JsonObject:
    """The proof without its problems, which stand at the top of a report."""
    return {key: value for key, value in to_object(proof).items() if key != "problems"}


def report_from_json(kind: type[R], data: JsonValue, name: str) -> R:
    """The report in JSON data.

    Args:
        kind: class of the report.
        data: data that ``report_to_json`` made.
        name: name of the report in errors.

    Raises:
        ReportError: data of another version, or data that does not fit the schema.
    """
    version = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(data, dict) or version not in READABLE:
        expected = " or ".join(map(str, READABLE))
        raise ReportError(
            f"{name}: schema is {version!r}, expected {expected}: a report of another version, or none at all"
        )
    schema.check(data, name)
    try:
        return _read(kind, data)
    except (OnnxQuantError, ValueError) as error:  # a format of a package that is not installed here
        raise ReportError(f"{name}: {error}") from None


def _read(kind: type[R], data: JsonObject) -> R:
    """The report of a class in data that fits the schema."""
    return kind(
        source=from_json(str, data["source"]),
        output=cast(str | None, data["output"]),
        sites=[_read_site(s) for s in cast(list[JsonObject], data["sites"])],
        notes=from_json(list[str], data["notes"]),
        unused_rules=from_json(list[int], data["unused_rules"]),
        predicted_bytes=cast(int | None, data["predicted_bytes"]),
        original_bytes=from_json(int, data["original_bytes"]),
        output_bytes=cast(int | None, data["output_bytes"]),
        external_data=from_json(bool, data["external_data"]),
        activations=read_activations(data["activations"]),
        search=from_json(FormatSearchResult, data["search"]) if data["search"] else None,
        choice=from_json(Choice, data["choice"]) if data.get("choice") else None,
        tuning=from_json(TuningRecord, data["tuning"]) if data.get("tuning") else None,
        pruning=from_json(PruningRecord, data["pruning"]) if data.get("pruning") else None,
        kept_codes=from_json(str, data["kept_codes"]) if data.get("kept_codes") else None,
        prospect=from_json(str, data.get("prospect", "")),
        observed=from_json(dict[str, HistogramSummary], data["observed"]),
        request=from_json(Request, data["asked"]) if data["asked"] else None,
        command=cast(str | None, data["command"]),
        hashes=from_json(FileHashes, data["sha256"]),
        environment=from_json(dict[str, str], data["environment"]),
        proof=None if data["proof"] is None else _read_proof(data["proof"], data["problems"]),
        judgement=_read_judgement(data),
    )


def _read_judgement(data: JsonObject) -> Judgement:
    saved = cast(JsonObject, data["verdict"])
    state = cast(str, saved["state"])
    verdict = from_json(Verdict, {**saved, "state": OLD_NAMES.get(state, state)})
    return Judgement(verdict, from_json(list[str], data["warnings"]))


def _read_site(data: JsonObject) -> SiteResult:
    """The result of one weight; its keys tell which kind of error figures it has."""
    error, checks = data.get("error"), None
    figures: ErrorFigures | Float16Error | None = None
    if isinstance(error, dict):
        in_float16 = "flushed" in error
        figures = from_json(Float16Error, error) if in_float16 else from_json(ErrorFigures, error)
        checks = from_json(WeightChecks, error) if "sum_test" in error else None
    decision = decision_from_dict(data)
    warning, kernel = (cast(str | None, data.get(key)) for key in ("warning", "kernel"))
    return SiteResult(decision, figures, checks, warning, kernel)


def _read_proof(data: JsonValue, problems: JsonValue) -> Proof:
    proof = from_json(Proof, data)
    # The verdict, which depends on the kinds of problems, is saved with the report.
    proof.problems = [Problem(text) for text in from_json(list[str], problems)]
    return proof


def load_report(kind: type[R], path: str | Path) -> R:
    """The report in a JSON file.

    Args:
        kind: class of the report.
        path: the file.

    Raises:
        ReportError: the file is missing, no JSON, or no report of this version.
    """
    try:
        data = json.loads(Path(path).read_bytes(), parse_int=_float_sized)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ReportError(f"{path}: is not JSON: {error}") from None
    return report_from_json(kind, data, str(path))


def _float_sized(digits: str) -> int:
    """A whole number of JSON that arithmetic with floats can take."""
    number = int(digits)
    float(number)
    return number


def as_text(data: JsonObject | Mapping[str, JsonValue]) -> str:
    """JSON data as text for people and files."""
    return json.dumps(data, indent=2, allow_nan=False)
