"""Quantized and float decoder folders: a graph that is written anew, and the files beside it as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxquant.arguments import checked
from onnxquant.artifact.restore import dequantize as dequantize_file
from onnxquant.calibration.feeds import Data
from onnxquant.convert.best import quantize as quantize_file
from onnxquant.errors import OutputError, OutputExistsError, RecipeError
from onnxquant.interchange.folders import is_empty_folder
from onnxquant.language.folder_names import is_file_of_decoder
from onnxquant.language.running.folder import is_decoder_folder, model_file, read_config
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent
from onnxquant.report.report import Report
from onnxquant.system.files import atomically
from onnxquant.targets import AUTO

# Ends of the names of configurations, tokenizers and templates; an index names files of weights, which are not copied.
_BESIDE, _INDEX = (".json", ".jinja", ".txt", ".model"), ".index.json"

# Formats that a search chooses among where no target and no formats are named: those that keep most in their bits.
SEARCHED = ("q8_0", "int6:block_size=64,symmetric=false", "int5:block_size=64,symmetric=false", "iq4_nl")


def graph_of(path: str | Path) -> Path:
    """The file of the graph of a decoder folder; another path as it is.

    Raises:
        ModelError: the folder's configuration is damaged, or names a file that is not there.
    """
    place = Path(path)
    return model_file(place) if is_decoder_folder(place) else place


@checked
def quantize(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: Data | None = None,
    progress: Progress = silent,
    command: str | None = None,
    **options: object,
) -> Report:
    """Quantize the graph of a decoder folder into another folder, with the tokenizer and the configurations beside it.

    A search for formats under a bound judges logits alone, and chooses among ``SEARCHED``, unless options say otherwise.

    Args:
        folder: the decoder folder.
        output: the folder to write: a new one, an empty one, or with ``force`` another decoder folder. None: with
            ``dry_run``, which writes nothing.
        recipe: a recipe, as in ``onnxquant.quantize``.
        data: samples: texts, tokens, or arrays of all inputs.
        progress: called with the name of the stage and the part of it that is done.
        command: the command line, for the report.
        options: other options of ``onnxquant.quantize``.

    Raises:
        OutputError: the output is there already, or cannot be written.
        RecipeError: there is no output.
        OnnxQuantError: errors of ``onnxquant.quantize``.
    """
    source = Path(folder)
    graph = model_file(source)
    entries = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    arguments: dict[str, object] = {
        **_of_a_search(source, entries, options, has_samples=data is not None),
        **options,
    }

    def run(place: Path | None) -> Report:
        return quantize_file(graph, place, recipe=entries, data=data, progress=progress, command=command, **arguments)

    if options.get("dry_run"):
        return run(None)
    if output is None:
        raise RecipeError(f"{source}: is a decoder folder; name the folder to write with -o (output=...)")
    with _folder_like(source, Path(output), force=bool(options.get("force"))) as place:
        return run(place)


def _of_a_search(
    folder: Path, entries: Mapping[str, Any] | None, options: Mapping[str, object], *, has_samples: bool
) -> dict[str, object]:
    """The options of a search for formats that neither a recipe nor the user gives; none where nothing is searched for.

    The cache is an output, too, but it shows the noise of one product, and what matters is what becomes of it.
    """
    settings, rules = Options.of_recipe(entries, options, has_samples=has_samples)
    if not settings.searches:
        return {}
    missing: dict[str, object] = {}
    if not settings.judge:
        missing["judge"] = (read_config(folder).names["logits"],)
    if not settings.formats and rules.rules[-1].target == AUTO:
        missing["formats"] = SEARCHED
    return missing


@checked
def dequantize(folder: str | Path, output: str | Path, *, force: bool = False, progress: Progress = silent) -> int:
    """Write the float graph of a quantized decoder folder into another folder, with the files beside it.

    Args:
        folder: the decoder folder.
        output: the folder to write, as in ``quantize``.
        force: replace another decoder folder.
        progress: called with the name of the stage and the part of it that is done.

    Returns:
        number of weights that were decoded.

    Raises:
        ModelError: the graph cannot be read, or was not quantized by onnxquant.
        OutputError: the output is there already, or cannot be written.
    """
    source = Path(folder)
    with _folder_like(source, Path(output), force=force) as place:
        return dequantize_file(model_file(source), place, force=force, progress=progress)


@contextmanager
def _folder_like(source: Path, output: Path, *, force: bool) -> Iterator[Path]:
    """The place of the graph in a folder that gets the other files of a source in the end, if there is a graph by then.

    Raises:
        OutputError: the folder is there already, or cannot be written.
    """
    beside = sorted(file for file in source.iterdir() if _is_beside(file))
    is_new = not output.exists()
    if is_new and not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} does not exist; make it first")
    if not is_new:
        _refuse_folder(output, source, {file.name for file in beside}, force=force)
    place = output / model_file(source).relative_to(source)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield place
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from None
    finally:
        if place.is_file():
            for file in beside:
                with file.open("rb") as bytes_of_file, atomically(output / file.name) as stream:
                    shutil.copyfileobj(bytes_of_file, stream)
        elif is_new:
            shutil.rmtree(output, ignore_errors=True)


def _is_beside(file: Path) -> bool:
    """Whether a file beside a graph says what the graph is, and is no weight."""
    return file.is_file() and file.name.endswith(_BESIDE) and not file.name.endswith(_INDEX)


def _refuse_folder(output: Path, source: Path, names: set[str], *, force: bool) -> None:
    """Refuse a folder that is there, unless it is empty, or a decoder folder that may be replaced.

    Args:
        output: the folder.
        source: the folder that it is made of.
        names: names of files that it would get.
        force: whether a decoder folder may be replaced.
    """
    if is_empty_folder(output):
        return
    if not output.is_dir() or output.samefile(source):
        raise OutputError(f"{output}: is {'the source' if output.is_dir() else 'no folder'}; expected another output")
    if not force:
        raise OutputExistsError(f"{output}: exists already; pass --force (force=True) to replace it")
    known = {*names, model_file(source).name}
    others = [
        f.name for f in sorted(output.iterdir()) if f.is_dir() or not (f.name in known or is_file_of_decoder(f.name))
    ]
    if others:
        raise OutputError(f"{output}: holds other files, such as {others[0][:60]!r}; expected another output")
