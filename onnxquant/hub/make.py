"""Making of variants: each in its ways, until one is close enough; a file that was there stays until then."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from onnxquant.batch.job import Job, Row
from onnxquant.batch.run import BatchProgress, run
from onnxquant.calibration.feeds import Data
from onnxquant.errors import ModelError, OnnxQuantError
from onnxquant.graph.io import load
from onnxquant.graph.move import move
from onnxquant.hub.folder import FloatModel, samples_of
from onnxquant.hub.names import Names
from onnxquant.hub.report import VariantRow
from onnxquant.hub.variants import Variant
from onnxquant.report.state import State


@dataclass(frozen=True)
class Wish:
    """Arguments of the user that all jobs share.

    Attributes:
        data: samples.
        options: options of ``quantize``.
        skip_existing: whether files that were made of the same model in the same way are kept.
    """

    data: Data | None
    options: Mapping[str, object]
    skip_existing: bool

    @property
    def replaces(self) -> bool:
        """Whether new files take the places of those that are there."""
        return bool(self.options.get("force")) and not self.options.get("dry_run")


@dataclass(frozen=True)
class Task:
    """One variant of one model, and the way at which its making is.

    Attributes:
        model: the float model.
        variant: the variant.
        way: number of the way.
        before: words on the ways before this one, which were not close enough.
        folder: folder in which the file is made before it replaces one; None: it is made in its place.
    """

    model: FloatModel
    variant: Variant
    way: int = 0
    before: str = ""
    folder: Path | None = None

    @property
    def place(self) -> Path:
        """The place of the file."""
        return self.model.path.with_name(self.variant.file_name(self.model.name))

    @property
    def output(self) -> Path:
        """The file that the job writes."""
        return self.place if self.folder is None else self.folder / self.place.name

    def job(self, wish: Wish) -> Job:
        """The job of a batch that makes the file."""
        data = samples_of(self.model, wish.data)
        way = self.variant.options(self.way, has_samples=data is not None)
        rules = way.pop("rules", None)
        recipe = None if rules is None else {"rules": list(cast(tuple[object, ...], rules))}
        options = {**way, **wish.options}
        return Job(self.model.path, self.output, recipe, data, options, wish.skip_existing, keeps_report=True)

    def apart(self, folder: Path, *, may_stay: bool) -> Task:
        """The task with a folder of its own.

        Args:
            folder: folder of such folders.
            may_stay: whether the file that is there may be what the job would make: the folder gets a second name of it.
        """
        own = folder / self.place.name
        own.mkdir()
        if may_stay:
            with contextlib.suppress(ModelError, OSError):  # another file takes its place, if any
                for path in load(self.place).data_files():
                    os.link(path, own / path.name)
                os.link(self.place, own / self.place.name)
        return replace(self, folder=own)

    @property
    def words(self) -> str:
        """Words on the way, and on those before it; empty in the first way."""
        return f"{self.variant.ways[self.way].words}; {self.before}" if self.before else ""

    def next(self, row: VariantRow) -> list[Task]:
        """The task with its next way, after a result that is not good enough; none where there is no other way."""
        if self.way + 1 == len(self.variant.ways):
            return []
        cosine = "" if row.cosine is None else f": {row.cosine:.4f}"
        before = f"{self.variant.ways[self.way].words} not close enough{cosine}"
        return [replace(self, way=self.way + 1, before=before)]

    def publish(self) -> None:
        """Put a file that was made apart into its place, with all that lies beside it.

        Raises:
            OnnxQuantError: it cannot be put there; what was there before is as it was.
        """
        if self.folder is None:
            return
        move(self.output, self.place, force=True)
        for path in self.folder.iterdir():
            path.replace(self.place.with_name(path.name))

    def discard(self) -> None:
        """Remove a file of ours that is not good enough, and its data."""
        with contextlib.suppress(ModelError):
            for path in (*load(self.output).data_files(), self.output):
                path.unlink(missing_ok=True)


def make(tasks: Sequence[Task], wish: Wish, progress: BatchProgress, jobs: int) -> list[VariantRow]:
    """Rows of all variants; one that is not close enough is made in its next way.

    Args:
        tasks: the variants.
        wish: arguments of the user.
        progress: callback for the progress of all models.
        jobs: number of files at a time.
    """
    with contextlib.ExitStack() as stack:
        if wish.replaces and any(task.place.exists() for task in tasks):
            parent = tasks[0].place.parent
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".onnxquant-", dir=parent)))
            may_stay = wish.skip_existing
            tasks = [task.apart(folder, may_stay=may_stay) if task.place.exists() else task for task in tasks]
        rows: dict[Path, VariantRow] = {}
        while tasks:
            report = run([task.job(wish) for task in tasks], progress, workers=jobs, continue_on_error=True)
            again: list[Task] = []
            for task, row in zip(tasks, report.rows, strict=True):
                rows[task.place] = _judged(task, row, wish)
                if rows[task.place].state.is_failure and _has_other_way(task, row, wish):
                    again += task.next(rows[task.place])
            tasks = again
    return list(rows.values())


def _judged(task: Task, row: Row, wish: Wish) -> VariantRow:
    """The result of a task, whose file is in its place if it is good enough, and else is removed."""
    folders = [task.model.path.parent, *([task.folder] if task.folder else [])]
    names = Names.of(folders, task.model.path.parent.name, (wish.data, *wish.options.values()))
    result = replace(VariantRow.of(row, task.model, task.variant, names), way=task.words)
    if row.report is None or result.state is State.PLANNED:
        return result
    if result.state.is_failure:
        if not row.reused or task.folder:
            task.discard()
    elif not row.reused:
        try:
            task.publish()
        except (OnnxQuantError, OSError) as error:
            return replace(result, state=State.ERROR, reason=names.text(str(error)), report=None)
    return result


def _has_other_way(task: Task, row: Row, wish: Wish) -> bool:
    """Whether another way may do for a task that failed."""
    if row.report is not None:
        return not row.reused or task.folder is not None
    return wish.skip_existing and task.folder is None and task.place.exists()  # made in another way, perhaps
