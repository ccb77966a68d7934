"""One model of a batch: the job, its result row, and ``run_job``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from onnxquant.artifact.hashes import check_hashes
from onnxquant.artifact.records import Origin
from onnxquant.calibration.feeds import Data
from onnxquant.convert import best
from onnxquant.convert import quantize as convert
from onnxquant.errors import ModelError, OnnxQuantError, OutputError
from onnxquant.graph.io import load
from onnxquant.inspect.validate import validate
from onnxquant.json_data import OPTIONAL, JsonObject, to_object
from onnxquant.recipe.declaration import declared
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress
from onnxquant.recipe.rules import Recipe
from onnxquant.report.report import Report
from onnxquant.report.state import State


@dataclass(frozen=True)
class Row:
    """Result of one job.

    Attributes:
        model, output: the files
        verdict: the verdict
        reason: why it failed, or a remark
        reused: whether the output existed already, made of this model with these options
        original_bytes, output_bytes: sizes, data files included
        bits_per_weight: mean over all constant weights
        sqnr_db: SQNR of the worst output
        speed_ratio: speed as a multiple of the original's
        seconds: duration of the job
        key: hash of the request (options, rules, samples); a stored verdict with another key does not apply to this request
        report: report of the plan with ``dry_run``, so that the command line can print it; that of the file where the job
            keeps it
    """

    model: str
    output: str
    verdict: State = State.NOT_DONE
    reason: str = ""
    reused: bool = False
    original_bytes: int | None = None
    output_bytes: int | None = None
    bits_per_weight: float | None = None
    sqnr_db: float | None = None
    speed_ratio: float | None = None
    seconds: float | None = None
    key: str = ""
    report: Report | None = field(default=None, repr=False, compare=False, metadata=OPTIONAL)

    @property
    def done(self) -> bool:
        """Whether the job succeeded."""
        return not self.verdict.is_failure

    @property
    def size_ratio(self) -> float | None:
        """Size of the original as a multiple of the output's."""
        return self.original_bytes / self.output_bytes if self.original_bytes and self.output_bytes else None

    def to_dict(self) -> JsonObject:
        """JSON data of the row, but for the report of a plan."""
        return {**to_object(replace(self, report=None)), "size_ratio": self.size_ratio}


@dataclass(frozen=True)
class Job:
    """One model to quantize.

    Attributes:
        source, output: the files; the output's folder is created
        recipe, data, options: arguments of ``quantize``
        skip_existing: whether an output that was made of this model with the same options is kept
        previous: result of an earlier run
        keeps_report: whether the row has the whole report
    """

    source: Path
    output: Path
    recipe: str | Path | Mapping[str, Any] | None = None
    data: Data | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    skip_existing: bool = False
    previous: Row | None = None
    keeps_report: bool = False

    def settings(self) -> tuple[Options, Recipe]:
        """Options and rules.

        Raises:
            RecipeError: they are wrong; no model has to be read to know that.
        """
        entries = read_recipe(self.recipe) if isinstance(self.recipe, (str, Path)) else self.recipe
        return Options.of_recipe(entries, self.options, has_samples=self.data is not None)

    def output_name(self, source: Path) -> str:
        """Name of the output of a model where the job does not give one."""
        settings, rules = self.settings()
        return settings.output_name(rules, source)

    def row(self, verdict: State = State.NOT_DONE, reason: str = "", **figures: object) -> Row:
        """A result of this job."""
        return Row(str(self.source), str(self.output), verdict, reason, **cast(dict[str, Any], figures))


def run_job(job: Job, progress: Progress) -> Row:
    """Run one job. Every error becomes a row with the verdict ERROR."""
    begin = time.perf_counter()
    try:
        row = _run(job, progress)
    except OnnxQuantError as error:
        row = job.row(State.ERROR, str(error))
    except MemoryError as error:
        row = job.row(State.ERROR, f"out of memory: {error}" if str(error) else "out of memory")
    except OSError as error:
        row = job.row(State.ERROR, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # a defect of ours must not end a batch
        row = job.row(State.ERROR, f"internal error, please report it: {type(error).__name__}: {error}")
    return replace(row, seconds=time.perf_counter() - begin)


def _run(job: Job, progress: Progress) -> Row:
    """Quantize the model, or take over an output that is there already: its verdict is read, or its proof is made up for."""
    settings, _ = job.settings()
    if settings.dry_run or not job.skip_existing or not job.output.exists():
        return _quantize(job, progress, settings)
    expected = _expected(job)
    key = _key(job, settings, expected)
    # A chosen file says in which way it was made; only the verdict that was kept says by which goal.
    is_chosen = settings.goal is not None and job.previous is not None and job.previous.key == key
    if difference := _difference(job.output, expected, is_chosen=is_chosen):
        if settings.force:
            return _quantize(job, progress, settings)
        raise OutputError(f"{job.output}: exists, but {difference}; use --force to make it again")
    if job.previous and job.previous.key == key:
        return replace(job.previous, reused=True)
    if not settings.proof:
        sizes = [load(path, settings.external_root).size() for path in (job.source, job.output)]
        return job.row(State.WRITTEN, reused=True, key=key, original_bytes=sizes[0], output_bytes=sizes[1])
    # An interrupted run leaves a whole file that nobody has proven.
    known = declared(Options)
    options = {k: v for k, v in job.options.items() if k not in known or not known[k].declared.names_file}
    report = validate(job.source, job.output, job.data, progress=progress, **options)
    return _with_report(job, replace(_row(job, report, key), reused=True), report)


def _quantize(job: Job, progress: Progress, settings: Options) -> Row:
    if not settings.dry_run:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    report = best.quantize(
        job.source, job.output, recipe=job.recipe, data=job.data, progress=progress, **job.options
    )
    if settings.dry_run:
        return replace(_row(job, report, ""), report=report)
    made_of = Origin.read(load(job.output).proto) if settings.goal is None else _expected(job)
    return _with_report(job, _row(job, report, _key(job, settings, made_of)), report)


def _with_report(job: Job, row: Row, report: Report) -> Row:
    return replace(row, report=report) if job.keeps_report else row


def _expected(job: Job) -> Origin:
    """The origin that the output of a job has to have."""
    settings, rules = job.settings()
    original = load(job.source, settings.external_root)
    return Origin.from_dict(convert.origin_of(original, settings, rules).to_dict())


def _row(job: Job, report: Report, key: str) -> Row:
    """The result row of a job, with the figures of its report."""
    verdict = report.verdict
    return job.row(
        verdict.state,
        "; ".join(report.problems) or ("" if report.passed else verdict.next),
        original_bytes=report.original_bytes,
        output_bytes=report.output_bytes or report.predicted_bytes,
        bits_per_weight=report.bits_per_weight,
        sqnr_db=verdict.worst_sqnr_db,
        speed_ratio=verdict.faster,
        key=key,
    )


def _key(job: Job, settings: Options, made_of: Origin | None) -> str:
    """Hash of the output's origin and of all that the verdict of its proof depends on."""
    proof = {name: getattr(settings, name) for name, option in declared(Options).items() if option.declared.is_proof}
    data = str(job.data) if isinstance(job.data, (str, Path)) else type(job.data).__name__
    text = json.dumps([made_of.to_dict() if made_of else {}, proof, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(output: Path, expected: Origin, *, is_chosen: bool) -> str:
    """The reason why a file is not the one that the job would write; empty where it is.

    Args:
        output: the file
        expected: origin that it has to have
        is_chosen: whether it was chosen by the goal of the job, whose way says other options and rules
    """
    try:
        document = load(output)
        actual = Origin.read(document.proto)
        if actual is None:
            return "does not say what it was made of"
        if actual.sha256 != expected.sha256:
            return "was made of another model"
        if actual.options != expected.options and not is_chosen:
            return f"was made with other options: {json.dumps(actual.options)}, not {json.dumps(expected.options)}"
        if actual.rules != expected.rules and not is_chosen:
            return f"was made with other rules: {json.dumps(actual.rules)}, not {json.dumps(expected.rules)}"
        damaged = [name for name, is_whole in check_hashes(document).items() if not is_whole]
        return f"is damaged: tensor {damaged[0]!r}" if damaged else ""
    except ModelError as error:
        return f"cannot be read: {error}"
