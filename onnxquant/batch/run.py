"""Many models at once: one table of what came of each, and one verdict."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from onnxquant.batch import process as workers
from onnxquant.batch.job import Job, Row
from onnxquant.errors import OutputError, RecipeError
from onnxquant.graph.publish import atomically
from onnxquant.recipe.options import Options
from onnxquant.report import summary
from onnxquant.validation.reference import Data

# Told the model, what is being done and how much of it (0 to 1).
Progress = Callable[[str, str, float], None]
JOURNAL = "onnxquant-batch.json"


@dataclass(frozen=True)
class BatchReport:
    """What came of many models.

    Attributes:
        rows: one for each, in the order they were given.
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
        """One line: how many are done, how much smaller together, the lowest SQNR, the mean speed (geometric)."""
        good = [r for r in self.rows if r.done]
        before, after = (sum(getattr(r, f"{k}_bytes") or 0 for r in good) for k in ("original", "output"))
        speeds = [r.speed_ratio for r in good if r.speed_ratio]
        product = 1.0
        for ratio in speeds:
            product *= ratio ** (1 / len(speeds))
        worst = min((r.sqnr_db for r in self.rows if r.sqnr_db is not None), default=None)
        figures = (before / after if after else None, worst, product if speeds else None)
        return summary.line("PASSED" if self.passed else "FAILED", f"{self.done}/{len(self.rows)} models", *figures)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"passed": self.passed, "done": self.done, "models": [row.to_dict() for row in self.rows]}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the midst of a batch; ``report`` says what is done."""

    def __init__(self, report: BatchReport) -> None:
        super().__init__()
        self.report = report


def batch(
    models: Iterable[str | Path],
    output_dir: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: Data = None,
    skip_existing: bool = False,
    continue_on_error: bool = False,
    jobs: int = 1,
    progress: Progress = lambda model, stage, done: None,
    **options: Any,
) -> BatchReport:
    """Quantize many models into one folder, each in a process of its own: one that fails or crashes harms no other.

    Args:
        models: files, folders (their ``*.onnx``) and glob patterns.
        output_dir: folder for ``<name>.<format>.onnx``; it is made. ``onnxquant-batch.json`` there keeps the verdicts.
        recipe: as ``quantize`` takes it.
        data: the same for all models.
        skip_existing: leave outputs alone that were made of the same model with the same options. Another file in an
            output's place is an error unless ``force``.
        continue_on_error: go on when a model fails.
        jobs: models at a time. Unless ``threads`` is given, they share the CPUs.
        progress: called with a model's name, the stage, and how much of it is done.
        options: as ``quantize`` takes them, but for ``jobs``.

    Returns:
        a row for each model; ``passed`` says whether all are done and keep their bounds.

    Raises:
        RecipeError: an option is wrong, nothing matches a pattern, or two models would have one output.
        Interrupted: Ctrl-C; its ``report`` says what is done.
    """
    folder, sources = Path(output_dir), expand(models)
    template = Job(Path(), Path(), recipe, data, dict(options), skip_existing)
    name = template.settings()[1].rules[-1].make_format().name
    made = [replace(template, source=s, output=folder / f"{s.stem}.{name}.onnx") for s in sources]
    return run(
        without_outputs(made), progress, jobs=jobs, continue_on_error=continue_on_error, journal=folder / JOURNAL
    )


def run(
    jobs_: Sequence[Job],
    progress: Progress,
    *,
    jobs: int = 1,
    continue_on_error: bool = False,
    journal: Path | None = None,
) -> BatchReport:
    """Do jobs; see ``batch``.

    Args:
        jobs_: what is to be done.
        progress: see ``batch``.
        jobs: models at a time.
        continue_on_error: go on when one fails.
        journal: file that keeps verdicts for runs to come.

    Raises:
        RecipeError: something is wrong with the jobs; none was begun.
        OutputError: verdicts cannot be kept.
        Interrupted: Ctrl-C.
    """
    refuse(jobs_)
    if jobs < 1:
        raise RecipeError(f"jobs is {jobs}, expected at least 1")
    if journal and journal.is_dir():
        raise OutputError(f"{journal}: is a folder; expected the file that keeps verdicts")
    known = _read(journal)
    todo = [replace(job, known=known.get(str(job.output.absolute()))) for job in jobs_]
    if jobs > 1:
        shared = max(1, (os.cpu_count() or 1) // jobs)
        todo = [
            replace(j, options={"threads": shared, **{k: v for k, v in j.options.items() if v is not None}})
            for j in todo
        ]
    rows = [job.row() for job in todo]

    def finished(place: int, row: Row) -> None:
        rows[place] = row
        progress(row.model, row.verdict, 1.0)
        if journal and row.key:
            known[str(todo[place].output.absolute())] = row
            _write(journal, known)

    def told(place: int, stage: str, done: float) -> None:
        progress(str(todo[place].source), stage, done)

    try:
        workers.run(todo, jobs, finished, told, stop_at_failure=not continue_on_error)
    except KeyboardInterrupt:
        raise Interrupted(BatchReport(tuple(rows))) from None
    return BatchReport(tuple(rows))


def expand(models: Iterable[str | Path]) -> list[Path]:
    """The files that names, folders and glob patterns stand for, each once.

    Raises:
        RecipeError: a folder or a pattern stands for none.
    """
    found: dict[Path, None] = {}
    for entry in models:
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
        found.update(dict.fromkeys(files))
    if not found:
        raise RecipeError("no models are given")
    return list(found)


def _place(path: Path) -> Path:
    """Where a file lies, however its folder is spelled; a link is replaced, not followed."""
    return path.parent.resolve() / path.name


def without_outputs(jobs: Sequence[Job]) -> list[Job]:
    """Jobs whose model is no output of another one: a second run finds those where they lie beside their models."""
    outputs = {_place(job.output) for job in jobs}
    return [job for job in jobs if _place(job.source) not in outputs]


def refuse(jobs: Sequence[Job]) -> None:
    """Refuse jobs that cannot all be done, before any is begun.

    Raises:
        RecipeError: an option is wrong, two have one output, one's output is another's model, or one file would be
            written for each of several.
    """
    taken: dict[Path, Job] = {}
    models = {_place(job.source): job for job in jobs}
    for job in jobs:
        settings, _ = job.settings()
        place = _place(job.output)
        other = taken.setdefault(place, job)
        if other is not job:
            raise RecipeError(
                f"{other.source} and {job.source} would both become {job.output}; give them different outputs"
            )
        if place != _place(job.source) and place in models:
            raise RecipeError(f"{job.output} is a model, too; {job.source} cannot become it: give another output")
        if len(jobs) > 1 and (named := _named_once(settings)):
            raise RecipeError(f"{named[0]} is {named[1]!r}, one file for {len(jobs)} models")
        try:
            pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RecipeError(f"an option cannot be sent to another process: {error}") from None


def _named_once(settings: Options) -> tuple[str, str] | None:
    """An option that names one file to write; a bare ending, such as ``.html``, names one beside each output."""
    for spec in fields(settings):
        if spec.name in ("report", "save_recipe"):
            value = getattr(settings, spec.name)
            for name in (value,) if isinstance(value, str) else value or ():
                if spec.name == "save_recipe" or not (name.startswith(".") and "/" not in name):
                    return spec.name, name
    return None


def _read(journal: Path | None) -> dict[str, Row]:
    """What came of outputs before; nothing where that cannot be read."""
    try:
        entries = json.loads(journal.read_text(encoding="utf-8")) if journal else {}
        return {name: Row.from_dict(row) for name, row in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, RecipeError):
        return {}


def _write(journal: Path, known: Mapping[str, Row]) -> None:
    with atomically(journal) as stream:
        stream.write(json.dumps({name: row.to_dict() for name, row in known.items()}, indent=1).encode())
