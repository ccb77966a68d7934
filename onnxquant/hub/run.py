"""Variants of the models of a hub's folder: jobs of a batch, then config.json and the table for the card."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from onnxquant.batch.job import Job
from onnxquant.batch.run import BatchProgress, run, silent
from onnxquant.calibration.feeds import Data
from onnxquant.clients import client_named
from onnxquant.errors import ModelError, OutputExistsError
from onnxquant.graph.io import load
from onnxquant.hub.client_config import ClientConfig
from onnxquant.hub.folder import SUBFOLDER, FloatModel, ModelFolder, read_folder, samples_of
from onnxquant.hub.report import MARK, HubReport, VariantRow
from onnxquant.hub.variants import Variant, variants, variants_named
from onnxquant.json_data import JsonObject, from_json
from onnxquant.system.files import atomically

CLIENT = "transformers.js"
CARD, REPORT = "variants.md", "variants.json"


@dataclass(frozen=True)
class _Wish:
    """Arguments of the user that all jobs share."""

    data: Data | None
    options: Mapping[str, object]
    skip_existing: bool


@dataclass(frozen=True)
class _Task:
    """One variant of one model, and the way at which its making is."""

    model: FloatModel
    variant: Variant
    way: int = 0

    def job(self, wish: _Wish) -> Job:
        """The job of a batch that makes the file."""
        data = samples_of(self.model, wish.data)
        way = self.variant.options(self.way, has_samples=data is not None)
        rules = way.pop("rules", None)
        recipe = None if rules is None else {"rules": list(cast(tuple[object, ...], rules))}
        output = self.model.path.with_name(self.variant.file_name(self.model.name))
        return Job(
            self.model.path, output, recipe, data, {**way, **wish.options}, wish.skip_existing, keeps_report=True
        )  # fmt: skip


def hub(
    folder: str | Path,
    *,
    only: Iterable[str] = (),
    data: Data | None = None,
    clients: Iterable[str] = (CLIENT,),
    skip_existing: bool = False,
    jobs: int = 1,
    progress: BatchProgress = silent,
    **options: object,
) -> HubReport:
    """Write the variants of each model in ``FOLDER/onnx``, the entries of config.json that load them, and a table of all.

    Args:
        folder: the folder; its models are ``onnx/model.onnx``, ``onnx/encoder_model.onnx`` and the like.
        only: dtypes of the variants; empty: all.
        data: samples of every model, or a folder with ``NAME.npz`` for single models; None: synthetic ones.
        clients: programs that run the files; the first has its data files named and its entries written.
        skip_existing: whether files that were made of the same model in the same way are kept.
        jobs: number of files at a time.
        progress: function that is called with a model's name, the stage, and the part of it that is done.
        options: options of ``quantize`` that hold for every variant: ``samples``, ``dim``, ``force``, ``dry_run`` ...

    Returns:
        a row for each variant; a file that is not close enough to the float model is not kept.

    Raises:
        ModelError: the folder holds no models.
        RecipeError: an unknown variant or option, or config.json is no JSON object.
        OutputExistsError: the table or the report would replace a file of somebody else.
    """
    folder, chosen = Path(folder), variants_named(only)
    names = [client_named(name).name for name in clients] or [CLIENT]
    contents, config = read_folder(folder), ClientConfig(folder / "config.json", client_named(names[0]))
    places = [folder / SUBFOLDER / name for name in (CARD, REPORT)]
    for place in places:
        _refuse_foreign(place, force=bool(options.get("force")))
    wish = _Wish(data, {"external_data": "auto", **options, "clients": tuple(names)}, skip_existing)
    tasks = [_Task(model, variant) for model in contents.models for variant in chosen]
    rows = _with_earlier(_made(tasks, wish, progress, jobs), places[1], contents)
    report = _with_config(HubReport(folder, contents.models, tuple(rows), {}, contents.notes), config, contents)
    if options.get("dry_run"):
        return report
    if report.config:
        config.write(report.config)
    report = replace(report, files=(*([config.path] if report.config else []), *places))
    for place, text in zip(places, (report.card(), json.dumps(report.to_dict(), indent=1)), strict=True):
        with atomically(place) as stream:
            stream.write(text.encode())
    return report


def _made(tasks: Sequence[_Task], wish: _Wish, progress: BatchProgress, jobs: int) -> list[VariantRow]:
    """Rows of all variants; one that is not close enough is made in its next way."""
    rows: dict[tuple[Path, str], VariantRow] = {}
    while tasks:
        report = run([task.job(wish) for task in tasks], progress, workers=jobs, continue_on_error=True)
        again = []
        for task, row in zip(tasks, report.rows, strict=True):
            result = VariantRow.of(row, task.model, task.variant)
            rows[task.model.path, task.variant.dtype] = result
            is_other = wish.skip_existing and row.report is None and Path(row.output).exists()  # made in another way, perhaps
            if result.state.is_failure and row.report is not None:
                _remove(Path(row.output))
            if result.state.is_failure and (is_other or row.report is not None):
                again += [replace(task, way=task.way + 1)] * (task.way + 1 < len(task.variant.ways))
        tasks = again
    return list(rows.values())


def _with_earlier(rows: list[VariantRow], journal: Path, contents: ModelFolder) -> list[VariantRow]:
    """Rows of a run, and those of an earlier one whose files are still there, in the order of lists."""
    try:
        earlier = from_json(list[VariantRow], json.loads(journal.read_bytes())["variants"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        earlier = []
    new, sizes = {row.file for row in rows}, {model.name: model.nbytes for model in contents.models}
    for row in earlier:
        place = journal.with_name(row.file)
        is_same = row.file not in new and row.original_bytes == sizes.get(row.model) and row.is_there and place.exists()
        if is_same and load(place).size() == row.output_bytes:
            rows.append(row)
    order = list(variants())
    return sorted(rows, key=lambda row: (list(sizes).index(row.model), order.index(row.dtype)))


def _remove(model: Path) -> None:
    """Remove a file of ours that is not good enough, and its data."""
    with contextlib.suppress(ModelError):
        data = load(model).data_files()
        for path in (model, *data):
            path.unlink(missing_ok=True)


def _with_config(report: HubReport, config: ClientConfig, contents: ModelFolder) -> HubReport:
    """The report with the entries that config.json is to have."""
    dtypes = {model.name: [r.dtype for r in report.rows if r.model == model.name and r.is_there] for model in contents.models}
    entries, notes = config.entries(dtypes, report.folder / SUBFOLDER)
    return replace(report, config=entries, notes=(*report.notes, *notes))


def _refuse_foreign(place: Path, *, force: bool) -> None:
    """Refuse to replace a file that is none of an earlier run.

    Raises:
        OutputExistsError: it is somebody else's.
    """
    if force or not place.exists():
        return
    begin = place.read_bytes()[:64]
    if not begin.startswith((MARK.encode(), b'{\n "hub":')):
        raise OutputExistsError(f"{place}: exists already; pass --force (force=True) to replace it")


def entries_text(config: JsonObject) -> str:
    """Entries of config.json in one line."""
    words = {name: f"{len(value)} files" if isinstance(value, dict) else json.dumps(value) for name, value in config.items()}
    return ", ".join(f"{name}: {word}" for name, word in words.items())
