"""Renaming of a model together with its data files."""

from __future__ import annotations

import os
from pathlib import Path

from onnxquant.errors import OutputError, RecipeError
from onnxquant.graph.data_files import DataFiles, is_named_after, name_like, objection_to_name, other_owner
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import Publisher


def move(source: str | Path, target: str | Path, *, data_name: str | None = None, force: bool = False) -> list[Path]:
    """Give a model another name, or another folder, with its data files; at every moment one of both names is a whole model.

    Args:
        source: the model.
        target: its new name.
        data_name: name of its data file, or the ending of that behind the model's name (``_data``); None: as before.
        force: whether an existing target may be replaced.

    Returns:
        the files under their new names, the model first.

    Raises:
        ModelError: the source is no model, or its data is missing.
        OutputError: the target exists or cannot be written, or a file is a link or belongs to another model, too.
        RecipeError: ``data_name`` is no name of a data file.
    """
    source, target = Path(source), Path(target)
    document = load(source)
    locations = sorted(document.locations(), key=lambda name: (len(name), name))
    _refuse_same(source, target)
    data = _new_data(document, target, data_name)
    if data and _same_folder(source, target) and [data.name(i) for i in range(len(locations))] == locations:
        data = None
    old = [source, *(document.data_files() if data else [])]
    for file in old:
        if file.is_symlink():
            raise OutputError(f"{file}: is a link to {file.resolve()}; move that")
    for file in old[1:]:
        if other := other_owner(file, source):
            raise OutputError(f"{file}: holds tensors of {other}, too, which would not load any more")
    with Publisher(target, external=data is not None, force=force, data=data) as publisher:
        publisher.publish_moved(source)
    new = [target, *load(target).data_files()]
    for file in old:
        if not any(file.absolute() == other.absolute() for other in new):
            file.unlink()
    return new


def _refuse_same(source: Path, target: Path) -> None:
    """Refuse a target that is the source itself; one that is a second name of the same file may take its place."""
    if source.parent.resolve() / source.name == target.parent.resolve() / target.name:
        raise OutputError(f"{target}: is the model itself; give it another name")


def _new_data(document: Document, target: Path, data_name: str | None) -> DataFiles | None:
    """Data files under their new names; None where there are none, or where they stay as they are.

    Raises:
        RecipeError: the name is none, or there is no data file that it could be given to.
    """
    source, locations = document.path, document.locations()
    if data_name is not None and (objection := objection_to_name(data_name)):
        raise RecipeError(f"data_name is {data_name!r}, {objection}")
    if data_name is not None and not locations:
        raise RecipeError(f"data_name is {data_name!r}, but {document.name} has no data file")
    if source is None or not locations:
        return None
    if data_name is not None:
        return DataFiles(target.name * data_name.startswith(("_", ".")) + data_name)
    if is_named_after(source, locations):
        return DataFiles(name_like(source, locations, target))
    if _same_folder(source, target):
        return None
    return DataFiles(Path(locations[0]).name) if len(locations) == 1 else DataFiles(name_like(source, [], target))


def _same_folder(source: Path, target: Path) -> bool:
    return os.path.realpath(source.parent) == os.path.realpath(target.parent)
