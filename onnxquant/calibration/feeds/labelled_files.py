"""Files that are a sample each, such as images and sounds, with the names of their folders as labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxquant.calibration.feeds.base import Raw, SampleOrigin
from onnxquant.calibration.feeds.labels import LABEL, folder_labels


class LabelledFiles:
    """Files, each a sample.

    Args:
        folder: folder of the files; those in its folders have the name of theirs as label.
        files: the files.
        origin: origin of the samples, for reports.
        make: maker of the inputs of a file.
    """

    def __init__(self, folder: Path, files: Sequence[Path], origin: SampleOrigin, make: Callable[[Path], Raw]) -> None:
        self.files, self.origin, self._make = files, origin, make
        self._labels = folder_labels(folder, files)
        self.classes: Sequence[str] = sorted(set(self._labels.values()))

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        for file in self.files:
            label = {LABEL: self._labels[file]} if file in self._labels else {}
            yield str(file), {**self._make(file), **label}
