"""Many models at once: the jobs, one row for each of them, and one verdict."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from onnxquant.arguments import checked
from onnxquant.batch import process
from onnxquant.batch.job import Job, Row
from onnxquant.calibration.feeds import Data, refuse_missing
from onnxquant.errors import OutputError, RecipeError
from onnxquant.graph.data_files import is_ending
from onnxquant.json_data import JsonObject, from_json
from onnxquant.recipe.declaration import declared
from onnxquant.recipe.options import Options
from onnxquant.report import summary
from onnxquant.system import interrupts
from onnxquant.system.files import atomically

JOURNAL = "onnxquant-batch.json"


class BatchProgress(Protocol):
    """The progress of every model of a batch."""

    def __call__(self, model: str, stage: str, done: float, /) -> None:
        """Take note of the progress of a model; its last stage is its ``State``.

        Args:
            model: name of the model
            stage: name of the stage
            done: part of the stage that is done, from 0 to 1
        """


def silent(model: str, stage: str, done: float, /) -> None:
    """Ignore all progress."""


@dataclass(frozen=True)
class BatchReport:
    """Results of many models.

    Attributes:
        rows: one row for each model, in their order
    """

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every model is done and keeps its bounds."""
        return all(row.done for row in self.rows)

    @property
    def done(self) -> int:
        """Number of models that are done and keep their bounds."""
        return sum(row.done for row in self.rows)

    def summary(self) -> str:
        """One line: number of models done, their size ratio together, lowest SQNR, geometric mean of the speeds."""
        rows = [row for row in self.rows if row.done]
        before, after = sum(row.original_bytes or 0 for row in rows), sum(row.output_bytes or 0 for row in rows)
        speeds = [row.speed_ratio for row in rows if row.speed_ratio]
        mean_speed = 1.0
        for ratio in speeds:
            mean_speed *= ratio ** (1 / len(speeds))
        worst = min((row.sqnr_db for row in self.rows if row.sqnr_db is not None), default=None)
        figures = (before / after if after else None, worst, mean_speed if speeds else None)
        return summary.line("PASSED" if self.passed else "FAILED", f"{self.done}/{len(self.rows)} models", *figures)

    def to_dict(self) -> JsonObject:
        """JSON data of the rows, and whether all models are done."""
        return {"passed": self.passed, "done": self.done, "models": [row.to_dict() for row in self.rows]}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a batch; ``report`` holds the rows of the jobs that were done before."""

    def __init__(self, report: BatchReport) -> None:
        super().__init__()
        self.report = report


@checked
def batch(
    models: Iterable[str | Path],
    output_dir: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: Data | None = None,
    skip_existing: bool = False,
    continue_on_error: bool = False,
    jobs: int = 1,
    progress: BatchProgress = silent,
    **options: object,
) -> BatchReport:
    """Quantize many models into one folder, in processes apart from this one: one that fails or crashes harms no other.

    Args:
        models: files, folders (their ``*.onnx``) and glob patterns
        output_dir: folder, which is created, for ``<name>.<format>.onnx``, or ``<name>.<goal>.onnx`` where samples choose;
            ``onnxquant-batch.json`` there keeps the verdicts
        recipe: recipe, as ``quantize`` takes it
        data: samples for the proofs of all models
        skip_existing: whether outputs that were made of the same model with the same options are kept; another file in the
            place of an output is an error unless ``force``
        continue_on_error: whether other models are begun once one has failed
        jobs: number of models at a time; they share the CPUs unless ``threads`` is given
        progress: function that is called with a model's name, the stage, and the part of it that is done
        options: options of ``quantize`` but for ``jobs``

    Returns:
        a row for each model; ``passed`` says whether all are done and keep their bounds.

    Raises:
        FeedError: there is no such file or folder of samples.
        RecipeError: an option is wrong, nothing matches a pattern, or two models would have one output.
        Interrupted: Ctrl-C; its ``report`` holds what was done before.
    """
    refuse_missing(data)
    folder, sources = Path(output_dir), model_files(models)
    template = Job(Path(), Path(), recipe, data, dict(options), skip_existing)
    todo = without_outputs(jobs_of(template, sources, folder))
    return run(todo, progress, workers=jobs, continue_on_error=continue_on_error, journal=folder / JOURNAL)


def jobs_of(template: Job, sources: Iterable[Path], folder: Path) -> list[Job]:
    """A job for each model, like the template, with an output in a folder."""
    return [replace(template, source=source, output=folder / template.output_name(source)) for source in sources]


def run(
    jobs: Sequence[Job],
    progress: BatchProgress,
    *,
    workers: int = 1,
    continue_on_error: bool = False,
    journal: Path | None = None,
) -> BatchReport:
    """Run jobs; see ``batch``.

    Args:
        jobs: the jobs
        progress: function that is called with a model's name, the stage, and the part of it that is done
        workers: number of models at a time
        continue_on_error: whether other models are begun once one has failed
        journal: file that keeps verdicts for later runs

    Raises:
        RecipeError: something is wrong with the jobs; none was begun.
        OutputError: verdicts cannot be kept.
        Interrupted: Ctrl-C.
    """
    refuse(jobs)
    if workers < 1:
        raise RecipeError(f"jobs is {workers}, expected at least 1")
    if journal and journal.is_dir():
        raise OutputError(f"{journal}: is a folder; expected the file that keeps verdicts")
    results = _JobRows(jobs if workers == 1 else _sharing_cpus(jobs, workers), progress, journal)
    try:
        process.run(results.jobs, workers, results, stop_at_failure=not continue_on_error)
    except interrupts.Terminated:
        raise
    except KeyboardInterrupt:
        raise Interrupted(results.report()) from None
    return results.report()


class _JobRows:
    """Rows of the jobs, which it keeps in the journal as they come."""

    def __init__(self, jobs: Sequence[Job], progress: BatchProgress, journal: Path | None) -> None:
        self._journal, self._progress = journal, progress
        self._known = _read(journal)
        self.jobs = [replace(job, previous=self._known.get(str(job.output.absolute()))) for job in jobs]
        self._rows = [job.row() for job in self.jobs]

    def finished(self, index: int, row: Row) -> None:
        """Take the result of a job."""
        self._rows[index] = row
        self._progress(row.model, row.verdict, 1.0)
        if self._journal and row.key:
            self._known[str(self.jobs[index].output.absolute())] = row
            _write(self._journal, self._known)

    def advanced(self, index: int, stage: str, done: float) -> None:
        """Pass on the progress of a job."""
        self._progress(str(self.jobs[index].source), stage, done)

    def report(self) -> BatchReport:
        """The rows so far."""
        return BatchReport(tuple(self._rows))


def _sharing_cpus(jobs: Sequence[Job], workers: int) -> list[Job]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    return [replace(job, options={**job.options, "threads": job.options.get("threads") or threads}) for job in jobs]


def model_files(models: Iterable[str | Path]) -> list[Path]:
    """The files that names, folders and glob patterns stand for, each once.

    Raises:
        RecipeError: a folder or a pattern stands for none.
    """
    files = list(dict.fromkeys(file for entry in models for file in _matching_files(entry)))
    if not files:
        raise RecipeError("no models are given")
    return files


def _matching_files(entry: str | Path) -> list[Path]:
    """The files of an entry: one file, the models of a folder, or the matches of a pattern."""
    path, text = Path(entry), str(entry)
    if not text:
        raise RecipeError("a model's name is empty, expected a file, a folder or a pattern")
    if path.is_dir():
        files = sorted(path.glob("*.onnx"))
    elif any(c in text for c in "*?[") and not path.exists():
        root = Path(path.anchor)
        try:
            files = sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
        except ValueError as error:
            raise RecipeError(f"{entry}: is no pattern: {error}") from None
    else:
        files = [path]
    if not files:
        raise RecipeError(f"{entry}: no model is found there, expected *.onnx files")
    return files


def _place(path: Path) -> Path:
    """The file's path with its folder resolved; a link is replaced, not followed."""
    return path.parent.resolve() / path.name


def without_outputs(jobs: Sequence[Job]) -> list[Job]:
    """Jobs whose model is no output of another one: a second run finds outputs where they lie beside their models."""
    outputs = {_place(job.output) for job in jobs}
    return [job for job in jobs if _place(job.source) not in outputs]


def refuse(jobs: Sequence[Job]) -> None:
    """Refuse jobs that cannot all be done, before any is begun.

    Raises:
        RecipeError: an option is wrong, two jobs have one output, the output of one is the model of another, or one file
            would be written for each of several.
    """
    job_of_output: dict[Path, Job] = {}
    models = {_place(job.source) for job in jobs}
    for job in jobs:
        settings, _ = job.settings()
        place = _place(job.output)
        other = job_of_output.setdefault(place, job)
        if other is not job:
            raise RecipeError(
                f"{other.source} and {job.source} would both become {job.output}; give them different outputs"
            )
        if place != _place(job.source) and place in models:
            raise RecipeError(f"{job.output} is a model, too; {job.source} cannot become it: give another output")
        if len(jobs) > 1:
            _refuse_one_file_for_all(settings, len(jobs))
        try:
            pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RecipeError(f"an option cannot be sent to another process: {error}") from None


def _refuse_one_file_for_all(settings: Options, count: int) -> None:
    """Refuse options that name one file to write; a bare ending, such as ``.html``, names one beside each output."""
    for option in declared(Options).values():
        value, is_path = getattr(settings, option.name), option.declared.is_path
        if not option.declared.names_file or is_path is None:
            continue
        for name in (value,) if isinstance(value, str) else value or ():
            if is_path(name):
                raise RecipeError(f"{option.name} is {name!r}, one file for {count} models")
    if settings.data_name is not None and not is_ending(settings.data_name):
        raise RecipeError(f"data_name is {settings.data_name!r}, one file for {count} models; an ending such as _data is not")


def _read(journal: Path | None) -> dict[str, Row]:
    """Results of earlier runs by output; none where the journal cannot be read."""
    try:
        entries = json.loads(journal.read_text(encoding="utf-8")) if journal else {}
        return from_json(dict[str, Row], entries)
    except (OSError, ValueError, RecursionError):
        return {}


def _write(journal: Path, rows: Mapping[str, Row]) -> None:
    with atomically(journal) as stream:
        stream.write(json.dumps({name: row.to_dict() for name, row in rows.items()}, indent=1).encode())
