"""Renaming of a model together with its data files."""

from __future__ import annotations

import os
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.errors import OutputError, RecipeError
from onnxquant.graph.data_files import DataFiles, default_data, is_named_after, locations_of, name_like
from onnxquant.graph.io import Document, load
from onnxquant.graph.neighbours import other_owner
from onnxquant.graph.publish import Publisher


@checked
def move(
    source: str | Path,
    target: str | Path,
    *,
    data_name: str | None = None,
    force: bool = False,
    notes: list[str] | None = None,
) -> list[Path]:
    """Give a model another name, or another folder, with its data files; at every moment one of both names is a whole model.

    Args:
        source: the model.
        target: its new name.
        data_name: name of its data file, or the ending of that behind the model's name (``_data``); None: as before.
        force: whether an existing target may be replaced.
        notes: list that gets a sentence for each data file of a replaced target that stays.

    Returns:
        the files under their new names, the model first.

    Raises:
        ModelError: the source is no model, or its data is missing.
        OutputError: the target exists or cannot be written, or a file is a link or belongs to another model, too.
        RecipeError: ``data_name`` is no name of a data file.
    """
    if str(target).endswith(os.sep) and not Path(target).is_dir():
        raise OutputError(f"{target}: the folder does not exist; make it first, and name the file in it")
    source, target = Path(source), Path(target)
    document = load(source, [source.absolute().anchor])  # links are refused below, in words that help here
    locations = locations_of(document.proto)
    _refuse_own_file(document, source, target)
    data = _new_data(document, target, data_name)
    if data and _same_folder(source, target) and [data.name(i) for i in range(len(locations))] == locations:
        data = None
    old = [source, *(document.data_files() if data else [])]
    if source.is_symlink():
        raise OutputError(f"{source}: is a link to {source.resolve()}; move that")
    folder = source.parent.resolve()
    for location in document.locations():
        if (real := (folder / location).resolve()) != folder / location:
            raise OutputError(
                f"{source.parent / location}: is reached through a link to {real}, which would stay behind; put the file "
                f"itself there first"
            )
    for file in old[1:]:
        if other := other_owner(file, source):
            raise OutputError(
                f"{file}: holds tensors of {other}, too, which would not load any more; copy both files into another "
                f"folder instead, or remove {other} first"
            )
    with Publisher(target, external=data is not None, force=force, data=data, source=document) as publisher:
        publisher.publish_moved(source)
    if notes is not None:
        notes += publisher.notes
    new = [target, *load(target).data_files()]
    for file in old:
        if not any(os.path.realpath(file) == os.path.realpath(other) for other in new):
            file.unlink()
    return new


def _refuse_own_file(document: Document, source: Path, target: Path) -> None:
    """Refuse a target that is the source itself, or its data; a second name of the source may take its place."""
    if source.parent.resolve() / source.name == target.parent.resolve() / target.name:
        raise OutputError(f"{target}: is the model itself; give it another name")
    if any(file.exists() and target.exists() and file.samefile(target) for file in document.data_files()):
        raise OutputError(f"{target}: is data of the model; give the model another name")


def _new_data(document: Document, target: Path, data_name: str | None) -> DataFiles | None:
    """Data files under their new names; None where there are none, or where they stay as they are.

    Raises:
        RecipeError: the name is none, or there is no data file that it could be given to.
    """
    source, locations = document.path, document.locations()
    named = DataFiles.named(target, data_name) if data_name is not None else None
    if named and not locations:
        raise RecipeError(f"data_name is {data_name!r}, but {document.name} has no data file")
    if source is None or not locations:
        return None
    if named:
        return named
    if is_named_after(source, locations):
        return DataFiles(name_like(source, locations, target))
    if _same_folder(source, target):
        return None
    unchanged = DataFiles(Path(locations[0]).name)
    return unchanged if len(locations) == 1 and unchanged.first != target.name else default_data(target)


def _same_folder(source: Path, target: Path) -> bool:
    return os.path.realpath(source.parent) == os.path.realpath(target.parent)
