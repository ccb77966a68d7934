"""Folders that appear whole or not at all, and never take the place of a folder with other files in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from onnxquant.errors import OutputError
from onnxquant.system.files import temporary_name


@contextlib.contextmanager
def whole_folder(path: Path, is_ours: Callable[[str], bool]) -> Iterator[Path]:
    """A folder to write into, which takes its place, synced, at the end of the block.

    Args:
        path: the place; a folder may be there that holds files of ours alone.
        is_ours: whether a name is one of the files that such a folder has.

    Raises:
        OutputError: it cannot be written, or another folder is there; what was there before is as it was.
    """
    temporary = temporary_name(path.parent, "folder")
    try:
        if path.exists() and (reason := _why_not_replaced(path, is_ours)):
            raise OutputError(f"{path}: {reason}; expected another output")
        temporary.mkdir()
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            _sync(file)
        _replace(path, temporary)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder with nothing in it, which an output may take the place of."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _why_not_replaced(path: Path, is_ours: Callable[[str], bool]) -> str | None:
    """The reason why a folder may not be replaced."""
    if path.is_symlink() or not path.is_dir():
        return "is no folder"
    others = sorted(file.name for file in path.iterdir() if file.is_dir() or not is_ours(file.name))
    return f"holds other files, such as {others[0][:60]!r}" if others else None


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where the system can open it for that."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _replace(path: Path, folder: Path) -> None:
    """Put a folder in the place of another, which stays where it is if that fails."""
    replaced = temporary_name(path.parent, "replaced")
    try:
        if path.exists():
            path.rename(replaced)
        folder.rename(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise
    finally:
        shutil.rmtree(replaced, ignore_errors=True)
