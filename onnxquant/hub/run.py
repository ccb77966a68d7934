"""Variants of the models of a hub's folder: jobs of a batch, then config.json and the table for the card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.batch.run import BatchProgress, silent
from onnxquant.calibration.feeds import Data, refuse_missing
from onnxquant.clients import client_named
from onnxquant.errors import ModelError, OutputExistsError
from onnxquant.graph.io import load
from onnxquant.hub.client_config import ClientConfig
from onnxquant.hub.folder import SUBFOLDER, ModelFolder, read_folder
from onnxquant.hub.make import Task, Wish, make
from onnxquant.hub.report import MARK, HubReport, VariantRow
from onnxquant.hub.variants import variants, variants_named
from onnxquant.json_data import JsonObject, JsonValue, from_json
from onnxquant.report.provenance import hashes
from onnxquant.system.files import atomically

CLIENT = "transformers.js"
CARD, REPORT = "variants.md", "variants.json"
_STAYS = "is there already; --force makes it again"


@dataclass(frozen=True)
class _State:
    """Size and hashes of a model with its data files."""

    nbytes: int
    hashes: dict[str, str]


@checked
def hub(
    folder: str | Path,
    *,
    only: str | Iterable[str] = (),
    data: Data | None = None,
    clients: str | Iterable[str] = (CLIENT,),
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
        clients: programs that run the files; transformers.js gets its entries in config.json.
        skip_existing: whether files that were made of the same model in the same way are kept.
        jobs: number of files at a time.
        progress: function that is called with a model's name, the stage, and the part of it that is done.
        options: options of ``quantize`` that hold for every variant: ``samples``, ``dim``, ``force``, ``dry_run`` ...

    Returns:
        a row for each variant; a file that is not close enough to the float model is not kept.

    Raises:
        ModelError: the folder holds no models.
        RecipeError: an unknown variant or option, or config.json is no JSON object.
        FeedError: there is no such file or folder of samples.
        OutputExistsError: the table or the report would replace a file of somebody else.
    """
    folder, chosen = Path(folder), variants_named(only)
    wanted_by = (clients,) if isinstance(clients, str) else clients
    names = [client_named(name).name for name in wanted_by] or [CLIENT]
    contents = read_folder(folder)
    if not contents.models:
        return HubReport(folder, (), (), {}, contents.notes)
    refuse_missing(data)
    config = ClientConfig(folder / "config.json", client_named(CLIENT)) if CLIENT in names else None
    places = [folder / SUBFOLDER / name for name in (CARD, REPORT)]
    for place in places:
        _refuse_foreign(place, force=bool(options.get("force")))
    wish = Wish(data, {"external_data": "auto", **options, "clients": tuple(names)}, skip_existing)
    tasks = [Task(model, variant) for model in contents.models for variant in chosen]
    earlier = _earlier(places[1], contents)
    stays = not (options.get("force") or skip_existing)
    asked = {task.place.name for task in tasks} & {row.file for row in earlier} if stays else set()
    new = make([task for task in tasks if task.place.name not in asked], wish, progress, jobs)
    rows = _merged([replace(row, reason=_STAYS) if row.file in asked else row for row in earlier], new)
    report = HubReport(folder, contents.models, _sorted(rows, contents), {}, contents.notes)
    report = _with_config(report, config, contents)
    if options.get("dry_run"):
        return report
    if config and report.config:
        config.write(report.config)
    report = replace(report, files=(*([config.path] if config and report.config else []), *places))
    for place, text in zip(places, (report.card(), json.dumps(report.to_dict(), indent=1)), strict=True):
        with atomically(place) as stream:
            stream.write(text.encode())
    return report


def _earlier(journal: Path, contents: ModelFolder) -> list[VariantRow]:
    """Rows of an earlier run whose files are still there as they were."""
    try:
        rows = from_json(list[VariantRow], json.loads(journal.read_bytes())["variants"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    models, known = {model.name: model.path for model in contents.models}, variants()
    originals = {name: _taken(path) for name, path in models.items()} if rows else {}
    return [
        row
        for row in rows
        if row.is_there
        and row.dtype in known
        and row.model in models
        and row.file == known[row.dtype].file_name(row.model)
        and _is_same(row.original_bytes, _hashes(row, "original"), originals[row.model])
        and _is_same(row.output_bytes, _hashes(row, "output"), _taken(journal.with_name(row.file)))
    ]


def _hashes(row: VariantRow, name: str) -> JsonValue:
    """Hashes of the files of a model in the report of a row; None where there are none."""
    taken = (row.report or {}).get("sha256")
    return taken.get(name) if isinstance(taken, dict) else None


def _taken(place: Path) -> _State | None:
    """The state of a model that is there; None where it cannot be read."""
    try:
        document = load(place)
        return _State(document.size(), hashes((place, *document.data_files())))
    except (ModelError, OSError):
        return None


def _is_same(nbytes: int | None, expected: JsonValue, state: _State | None) -> bool:
    """Whether a model is there as it was; by its size alone where its hashes were not taken."""
    return state is not None and state.nbytes == nbytes and (expected is None or expected == state.hashes)


def _merged(earlier: Iterable[VariantRow], new: Sequence[VariantRow]) -> list[VariantRow]:
    """Rows of this run, and those of an earlier one whose files it has not replaced."""
    replaced = {row.file for row in new if not row.state.is_failure}
    return [*(row for row in earlier if row.file not in replaced), *new]


def _sorted(rows: Iterable[VariantRow], contents: ModelFolder) -> tuple[VariantRow, ...]:
    """Rows in the order of lists."""
    models, dtypes = [model.name for model in contents.models], list(variants())
    return tuple(sorted(rows, key=lambda row: (models.index(row.model), dtypes.index(row.dtype))))


def _with_config(report: HubReport, config: ClientConfig | None, contents: ModelFolder) -> HubReport:
    """The report with the entries that config.json is to have; none where no client reads it."""
    if config is None:
        return report
    dtypes = {
        model.name: [r.dtype for r in report.rows if r.model == model.name and r.is_there] for model in contents.models
    }
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
    words = {
        name: f"{len(value)} files" if isinstance(value, dict) else json.dumps(value) for name, value in config.items()
    }
    return ", ".join(f"{name}: {word}" for name, word in words.items())
