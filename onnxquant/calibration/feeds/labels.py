"""Labels of samples: from arrays and columns beside the inputs, from folders of classes, and from files of labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import FeedError

Label = int | str
# The key of a sample's labels among its raw arrays; no input can be called so.
LABEL = "\0labels"
NAMES = ("label", "labels", "y", "target", "targets")
ENDINGS = (".txt", ".csv", ".tsv", ".npy", ".npz")
_MOST_LABELS = 10_000_000


def is_label_name(name: object) -> bool:
    """Whether an array or a column of this name may hold labels."""
    return isinstance(name, str) and name.lower() in NAMES


def folder_labels(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """The name of its first folder below the common one, of each file that lies in one."""
    return {f: f.relative_to(folder).parts[0] for f in files if f != folder and f.parent != folder}


def labels_in(values: object) -> list[Label] | None:
    """The labels of a sample, or of each sample of a batch; None where the values are no classes.

    >>> labels_in(np.array([[0, 1, 0], [1, 0, 0]])), labels_in(3), labels_in(0.5)
    ([1, 0], [3], None)
    """
    array: NDArray[np.generic] = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf" and ((array == 0) | (array == 1)).all():
        array = array.argmax(1)
    if array.ndim > 1 or array.dtype.kind not in "iuUO":
        return None
    return [str(v) if isinstance(v, str) else int(v) for v in array.reshape(-1).tolist()]


@dataclass(frozen=True)
class LabelFile:
    """The labels in a file.

    Attributes:
        path: the file.
        in_order: label of each sample; empty: labels are by name.
        by_name: label by the name of a file, or of a folder of classes.
    """

    path: Path
    in_order: Sequence[Label] = ()
    by_name: Mapping[str, Label] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, classes: Sequence[str]) -> LabelFile:
        """The labels in a file: one for each sample, or pairs of a file's or folder's name and a label.

        Args:
            path: the file, whose name has one of the endings ``ENDINGS``.
            classes: names of the folders of classes; a list of them says which class each is.

        Raises:
            FeedError: the file cannot be read, or holds something else.
        """
        if path.suffix.lower() not in ENDINGS:
            raise FeedError(f"labels {path}: expected a file that ends in {', '.join(ENDINGS)}")
        if path.suffix.lower() in (".npy", ".npz"):
            return cls(path, in_order=_array(path))
        rows = _rows(path)
        if classes and {row[0] for row in rows} >= set(classes) and not all(_is_number(row[-1]) for row in rows):
            return cls(path, by_name={row[0]: place for place, row in enumerate(rows)})
        if all(len(row) == 1 for row in rows):
            return cls(path, in_order=[_label(row[0]) for row in rows])
        return cls(path, by_name={key: _label(row[1]) for row in rows for key in {row[0], PurePath(row[0]).name}})

    def of(self, place: int, count: int, file: PurePath | None, labels: Sequence[Label]) -> list[Label] | None:
        """The labels of a sample, or of a batch.

        Args:
            place: position of the sample among all.
            count: number of labels that it has.
            file: its file, where it has one.
            labels: labels that it has without this file.
        """
        if self.in_order:
            return list(self.in_order[place * count : (place + 1) * count]) or None
        keys = [file.name, file.stem, file.parent.name] if file else []
        label = next((self.by_name[key] for key in keys if key in self.by_name), None)
        if label is not None:
            return [label]
        mapped = [self.by_name[str(old)] for old in labels if str(old) in self.by_name]
        return mapped if mapped and len(mapped) == len(labels) else None


def _array(path: Path) -> list[Label]:
    """The labels in a .npy, or in a .npz of one array or of one that is called like labels."""
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file:
            array = _only_array(path, np.load(file, allow_pickle=False))
    except FeedError:
        raise
    except Exception as error:  # zipfile.BadZipFile, zlib.error, ValueError, MemoryError: any kind of damage
        raise FeedError(f"labels {path}: cannot be read as {path.suffix.lower()}: {error}") from None
    labels = labels_in(array)
    if labels is None:
        raise FeedError(f"labels {path}: holds {array.dtype} {list(array.shape)}, expected one class for each sample")
    if not labels:
        raise FeedError(f"labels {path}: is empty, expected a class for each sample")
    return labels


def _only_array(path: Path, loaded: NDArray[Any] | np.lib.npyio.NpzFile) -> NDArray[Any]:
    """The array of labels in what a .npy or a .npz holds."""
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return loaded
    names = [name for name in loaded.files if is_label_name(name)] or loaded.files
    if len(names) != 1:
        listed, usual = ", ".join(loaded.files) or "none", ", ".join(NAMES)
        raise FeedError(f"labels {path}: expected an array called {usual}, or one alone; found {listed}")
    array = loaded[names[0]]
    if not isinstance(array, np.ndarray):  # a member that is no .npy
        raise FeedError(f"labels {path}: {names[0]} is no array that numpy wrote")
    return array


def _rows(path: Path) -> list[list[str]]:
    """Rows of one field or two; a heading is left out."""
    try:
        if path.stat().st_size > 100 * _MOST_LABELS:
            raise FeedError(f"labels {path}: {path.stat().st_size} bytes are no labels")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FeedError(f"labels {path}: cannot be read: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix.lower() == ".txt" and not any("," in line for line in lines):
        rows = [line.split(maxsplit=1) for line in lines]
    else:
        rows = [row[:2] for row in csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")]
    rows = [[cell.strip() for cell in row] for row in rows]
    if len(rows) > 1 and (is_label_name(rows[0][-1].lower()) or (not _is_number(rows[0][-1]) and _is_number(rows[1][-1]))):
        rows = rows[1:]
    if not rows:
        raise FeedError(f"labels {path}: is empty, expected a class for each sample")
    return rows


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _label(text: str) -> Label:
    return int(text) if _is_number(text) else text
