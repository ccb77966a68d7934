"""Files of several arrays and a header in JSON, written whole or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import StatisticsError
from onnxquant.system.files import atomically

_HEADER = "header"


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a ``.npz`` to a temporary file next to it, sync it, and move it to its place.

    Raises:
        OutputError: it cannot be written; the file that was there before has not changed.
    """
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with atomically(path) as file:
        np.savez(file, **{_HEADER: text, **arrays})  # type: ignore[arg-type]


def _refuse_bomb(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse members that are larger than the file: ``write`` compresses nothing."""
    size = sum(member.file_size for member in archive.infolist())
    if size > path.stat().st_size:
        raise ValueError(f"{size} bytes of arrays in a file of {path.stat().st_size}")


def read(path: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a file; the archive's checksums are checked.

    Args:
        path: the file.
        kind: expected kind of its contents, as the header names it.
        version: expected version of the file format.

    Raises:
        StatisticsError: missing, damaged, something else, or of another version.
    """
    if not path.is_file():
        raise StatisticsError(f"{path}: no such file; expected statistics that `onnxquant calibrate` wrote")
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _refuse_bomb(archive.zip, path)
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile.BadZipFile, zlib.error, and what damaged headers make numpy raise
        raise StatisticsError(f"{path}: damaged, or no statistics of onnxquant: {error}") from None
    try:
        header = json.loads(arrays.pop(_HEADER).tobytes())
        actual_kind, actual_version = header["kind"], header["version"]
    except (KeyError, ValueError, TypeError, AttributeError):
        raise StatisticsError(f"{path}: has no header; expected statistics that `onnxquant calibrate` wrote") from None
    if actual_kind != kind:
        raise StatisticsError(f"{path}: holds {actual_kind}, expected {kind}")
    if actual_version != version:
        raise StatisticsError(f"{path}: has version {actual_version} of the file format, expected {version}")
    return header, arrays
