"""Data files of a model that another one replaces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from onnxquant.errors import OnnxQuantError
from onnxquant.graph.data_files import ends_of, locations_of, objection_to_name
from onnxquant.graph.io import Document, outlined
from onnxquant.graph.neighbours import models_in


class ReplacedModel:
    """A model that is about to be replaced; its data files are removed once nothing uses them.

    Args:
        path: the model; there may be none.

    Attributes:
        notes: sentences on data files that stay although the new model does not use them.
    """

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path = path
        self._ends: dict[str, int | None] = {}
        # A link is replaced, not the model that it leads to.
        if path.is_file() and not path.is_symlink():
            self._has_other_names = path.stat().st_nlink > 1
            with contextlib.suppress(OnnxQuantError, OSError):
                self._ends = ends_of(outlined(path))

    def remove_unused(self, source: Document | None) -> None:
        """Remove its data files but for those in use: of the model in its place now, of the source, of others of the folder.

        Args:
            source: the model that the new one was made of.
        """
        if not self._ends:
            return
        try:
            used = list(_data_of(self._path))
        except (OnnxQuantError, OSError):
            return
        if source is not None and source.path is not None:
            used += [source.path, *source.data_files()]
        files = [self._path.parent / location for location in self._ends if "\x00" not in location]
        files = [file for file in files if file.exists() and not _is_one_of(file, used)]
        others, doubt = self._others() if files else ([], "")
        for file in files:
            if _is_one_of(file, others):
                continue
            reason = doubt or self._objection(file)
            try:
                if not reason:
                    file.unlink()
            except OSError as error:
                reason = f"it cannot be removed ({error.strerror})"
            if reason:
                self.notes.append(
                    f"{file.name} held data of the model that {self._path.name} replaces, and stays: {reason}"
                )

    def _others(self) -> tuple[list[Path], str]:
        """Data files of other models of the folder, and the reason why there may be further ones."""
        others = [other for other in models_in(self._path.parent) if other.path.name != self._path.name]
        used = [file for other in others for file in other.data]
        if unread := next((other.path.name for other in others if other.error), ""):
            return used, f"{unread}, which cannot be read, may use it"
        return used, "the replaced model has another name, too" if self._has_other_names else ""

    def _objection(self, file: Path) -> str:
        """The reason why a file may be another thing than data of the model; empty where it is that."""
        location = str(file.relative_to(self._path.parent))
        if objection_to_name(location) or file.is_symlink():
            return "it is a link, or lies in another folder, or has the name of no data file"
        if file.stat().st_size != self._ends[location]:
            return "it holds more than that, or less"
        return ""


def _data_of(model: Path) -> Iterator[Path]:
    """Data files of a model.

    Raises:
        ModelError: it cannot be read.
    """
    return (model.parent / name for name in locations_of(outlined(model)) if "\x00" not in name)


def _is_one_of(file: Path, others: list[Path]) -> bool:
    return any(other.exists() and file.samefile(other) for other in others)
