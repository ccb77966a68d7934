"""Groups of samples that come from one source, as far as the names of their files tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePath

# The number of sources that names must tell apart: two may be two classes, and calibration needs both.
_FEWEST_SOURCES = 3
_PARTS, _LARGEST_PART = 4, 16
_WORD_OR_NUMBER = re.compile(r"[^\W\d_]+|\d+")


def groups_of_files(files: Sequence[PurePath], *, are_classes: bool = False) -> list[str]:
    """The source of each file, by its name: its folder, or the beginning that it shares with other files.

    The coarsest way is taken in which no source holds more than a third of the files. Where names only count, neighbours may
    be frames of one film, and contiguous parts are the sources.

    Args:
        files: the files.
        are_classes: whether folders are classes: then a source is a part of one, so that every class calibrates and judges.

    >>> groups_of_files([PurePath(name) for name in ("cat_crop1.png", "cat_crop2.png", "dog_crop1.png", "tree.png")])
    ['./cat', './cat', './dog', './tree']
    """
    folders = [str(file.parent) for file in files]
    if are_classes:
        sources = {folder: iter(groups_of_files([f for f in files if str(f.parent) == folder])) for folder in set(folders)}
        return [f"{folder}/{next(sources[folder])}" for folder in folders]
    if _is_divided(folders, folders[:1]):
        return folders
    words = [_WORD_OR_NUMBER.findall(file.stem) for file in files]
    for length in range(1, max(map(len, words), default=0) + 1):
        starts = [f"{folder}/{' '.join(w[:length])}" for folder, w in zip(folders, words, strict=True)]
        if _is_divided(starts, set(folders)):
            only_count = len(set(starts)) == len(files) and all(w[:length][-1].isdecimal() for w in words if w)
            return _parts_of_folders(folders) if only_count else starts
    return _parts_of_folders(folders)


def _is_divided(sources: Sequence[str], folders: Collection[str]) -> bool:
    """Whether there are enough sources for so many folders, and none of them holds most files."""
    largest = max(Counter(sources).values(), default=0)
    return len(set(sources)) >= _FEWEST_SOURCES * len(folders) and largest * _FEWEST_SOURCES <= len(sources)


def _parts_of_folders(folders: Sequence[str]) -> list[str]:
    """Contiguous parts of each folder."""
    sizes = {folder: min(-(-count // _PARTS), _LARGEST_PART) for folder, count in Counter(folders).items()}
    starts = {folder: folders.index(folder) for folder in sizes}
    return [f"{folder}, part {(i - starts[folder]) // sizes[folder]}" for i, folder in enumerate(folders)]
