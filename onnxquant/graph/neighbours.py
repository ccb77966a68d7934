"""Models that lie in folders, each with the data files that it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxquant.errors import ModelError
from onnxquant.graph.io import Document, load


@dataclass(frozen=True)
class Neighbour:
    """A model of a folder.

    Attributes:
        path: its file.
        document: the model; None where it cannot be read.
        error: the reason why it cannot be read, without its name; else empty.
    """

    path: Path
    document: Document | None
    error: str = ""

    @property
    def data(self) -> list[Path]:
        """Data files that it reads, as far as that is known."""
        return self.document.data_files() if self.document else []


def models_in(*folders: Path) -> Iterator[Neighbour]:
    """Models of folders by name; a folder that is named twice, or by a link, is looked at once."""
    for folder in {os.path.realpath(folder): folder for folder in folders}.values():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() == ".onnx":
                yield _neighbour(path)


def _neighbour(path: Path) -> Neighbour:
    try:
        return Neighbour(path, load(path))
    except (ModelError, OSError) as error:
        return Neighbour(path, None, str(error).removeprefix(f"{path}: "))


def other_owner(data: Path, model: Path) -> Path | None:
    """Another model, in the folder of a model or of its data file, whose tensors the data file holds; None without one."""
    own, file = os.path.realpath(model), os.path.realpath(data)
    others = (other for other in models_in(model.parent, data.parent) if os.path.realpath(other.path) != own)
    return next((other.path for other in others if file in map(os.path.realpath, other.data)), None)
