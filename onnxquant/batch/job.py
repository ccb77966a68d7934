"""One model of a batch: what is to be done, what came of it, and the doing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from onnxquant.artifact.stored import check_hashes, origin
from onnxquant.convert import quantize as convert
from onnxquant.errors import ModelError, OnnxQuantError, OutputError
from onnxquant.graph.io import load
from onnxquant.inspect import api
from onnxquant.recipe import schema
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe
from onnxquant.report import summary
from onnxquant.report.data import Report
from onnxquant.validation.reference import Data

Told = Callable[[str, float], None]
# What the proof of a file depends on, beside the file.
_PROVEN_WITH = ("min_sqnr", "max_mse", "max_drop", "samples", "seed", "dim", "proof")
_DONE = ("PASSED", "WRITTEN", "PLANNED")
_PER_MODEL = ("dry_run", "save_recipe", "report", "work")


@dataclass(frozen=True)
class Row:
    """What came of one model.

    Attributes:
        model, output: the files.
        verdict: PASSED, FAILED (written, but the proof or a bound failed), WRITTEN (not proven), PLANNED (nothing was to
            be written), ERROR (nothing was written) or NOT DONE.
        reason: why it failed, or what else there is to know.
        kept: the output was there already, made of this model with these options.
        original_bytes, output_bytes: sizes, data files included.
        bits_per_weight: of all constant weights.
        sqnr_db: of the output that lost most.
        speed_ratio: how many times as fast as the original.
        seconds: that it took.
        key: of what was asked; another one means that the verdict says nothing.
        report: of a plan, to be shown.
    """

    model: str
    output: str
    verdict: str = "NOT DONE"
    reason: str = ""
    kept: bool = False
    original_bytes: int | None = None
    output_bytes: int | None = None
    bits_per_weight: float | None = None
    sqnr_db: float | None = None
    speed_ratio: float | None = None
    seconds: float | None = None
    key: str = ""
    report: Report | None = field(default=None, repr=False, compare=False)

    @property
    def done(self) -> bool:
        """Whether the model is as it was asked for."""
        return self.verdict in _DONE

    @property
    def size_ratio(self) -> float | None:
        """How many times as small as the original."""
        return self.original_bytes / self.output_bytes if self.original_bytes and self.output_bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an SQNR that is no number is text, as JSON has none."""
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "report"}
        if self.sqnr_db is not None and not abs(self.sqnr_db) < float("inf"):
            out["sqnr_db"] = str(self.sqnr_db)
        return {**out, "size_ratio": self.size_ratio}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A row from its plain data.

        Raises:
            RecipeError: a value is of the wrong type.
        """
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        if isinstance(sqnr_db := known.get("sqnr_db"), str):
            known["sqnr_db"] = float(sqnr_db)
        for spec in fields(cls):
            if spec.name in known and (known[spec.name], spec.default) != (None, None):
                schema.check(known[spec.name], schema.of_field(spec), "row", spec.name)
        return cls(**known)


@dataclass(frozen=True)
class Job:
    """One model to quantize.

    Attributes:
        source, output: the files; the output's folder is made.
        recipe, data, options: as ``quantize`` takes them.
        skip_existing: leave an output alone that was made of this very model with the same options.
        known: what came of it before.
    """

    source: Path
    output: Path
    recipe: str | Path | Mapping[str, Any] | None = None
    data: Data = None
    options: Mapping[str, Any] = field(default_factory=dict)
    skip_existing: bool = False
    known: Row | None = None

    def settings(self) -> tuple[Options, Recipe]:
        """Options and rules.

        Raises:
            RecipeError: they are not right; no model has to be read to know that.
        """
        entries = read_recipe(self.recipe) if isinstance(self.recipe, (str, Path)) else self.recipe
        return Options.of_recipe(entries, self.options)

    def row(self, verdict: str = "NOT DONE", reason: str = "", **more: Any) -> Row:
        """A row about this job."""
        return Row(str(self.source), str(self.output), verdict, reason, **more)


def perform(job: Job, told: Told) -> Row:
    """Do one job; whatever goes wrong is a row too."""
    begin = time.perf_counter()
    try:
        row = _perform(job, told)
    except OnnxQuantError as error:
        row = job.row("ERROR", str(error))
    except MemoryError as error:
        row = job.row("ERROR", f"out of memory: {error}" if str(error) else "out of memory")
    except OSError as error:
        row = job.row("ERROR", f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # a defect of ours must not end a batch
        row = job.row("ERROR", f"internal error, please report it: {type(error).__name__}: {error}")
    return replace(row, seconds=time.perf_counter() - begin)


def _perform(job: Job, told: Told) -> Row:
    settings, rules = job.settings()
    if settings.dry_run or not job.skip_existing or not job.output.exists():
        return _quantized(job, told, settings, rules)
    original = load(job.source, settings.external_root)
    expected = json.loads(json.dumps(convert.origin_of(original, settings, rules)))
    if difference := _difference(job.output, expected):
        if settings.force:
            return _quantized(job, told, settings, rules)
        raise OutputError(f"{job.output}: exists, but {difference}; use --force to make it again")
    key = _key(job, settings, expected)
    if job.known and job.known.key == key:
        return replace(job.known, kept=True)
    if not settings.proof:
        size = load(job.output).size()
        return job.row("WRITTEN", kept=True, key=key, original_bytes=original.size(), output_bytes=size)
    # A run that was interrupted leaves a whole file that nobody has proven.
    options = {k: v for k, v in job.options.items() if k not in _PER_MODEL}
    report = api.validate(job.source, job.output, job.data, progress=told, **options)
    return replace(_row(job, report, key), kept=True)


def _quantized(job: Job, told: Told, settings: Options, rules: Recipe) -> Row:
    if not settings.dry_run:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    report = convert.quantize(job.source, job.output, recipe=job.recipe, data=job.data, progress=told, **job.options)
    if settings.dry_run:
        return replace(_row(job, report, ""), report=report)
    return _row(job, report, _key(job, settings, origin(load(job.output).proto)))


def _row(job: Job, report: Report, key: str) -> Row:
    found = report.verdict
    return job.row(
        summary.WORDS[found.state],
        "; ".join(report.proof.problems) if report.proof else "",
        original_bytes=report.original_bytes,
        output_bytes=report.output_bytes or report.predicted_bytes,
        bits_per_weight=report.bits_per_weight,
        sqnr_db=found.worst_sqnr_db,
        speed_ratio=found.faster,
        key=key,
    )


def _key(job: Job, settings: Options, made_of: Mapping[str, Any]) -> str:
    asked = {name: getattr(settings, name) for name in _PROVEN_WITH}
    data = str(job.data) if isinstance(job.data, (str, Path)) else type(job.data).__name__
    text = json.dumps([made_of, asked, data, str(settings.metric)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(output: Path, expected: Mapping[str, Any]) -> str:
    """Why a file is not what the job would make; empty when it is."""
    try:
        document = load(output)
        found = origin(document.proto)
        if not found:
            return "does not say what it was made of"
        if found.get("sha256") != expected["sha256"]:
            return "was made of another model"
        for what in ("options", "rules"):
            if found.get(what) != expected[what]:
                return f"was made with other {what}: {json.dumps(found.get(what))}, not {json.dumps(expected[what])}"
        damaged = [name for name, good in check_hashes(document).items() if not good]
        return f"is damaged: tensor {damaged[0]!r}" if damaged else ""
    except ModelError as error:
        return f"cannot be read: {error}"
