"""Files that appear whole or not at all, and refusals of places where no file of ours may go."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which opens no folders either
    fcntl = None  # type: ignore[assignment]

from onnxquant.errors import OutputError, OutputExistsError


def temporary_name(folder: Path, kind: str) -> Path:
    """A name for a hidden file in ``folder`` that nobody else uses.

    It does not hold the name of the output: one of 255 bytes has no room for a suffix.
    """
    return folder / f".onnxquant-{kind}-{secrets.token_hex(8)}"


@contextlib.contextmanager
def one_process_at_a_time(folder: Path) -> Iterator[None]:
    """A block that one process at a time runs for a folder, where the system can lock folders: two pairs never mix."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place, synced, at the end of the block: whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there before is as it was.
    """
    temporary = temporary_name(path.parent, "file")
    try:
        refuse_special(path)
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_taken(path: Path, *, force: bool) -> None:
    """Refuse an output that exists already, that is no file, or whose folder is missing.

    Args:
        path: the output
        force: whether an existing file may be replaced

    Raises:
        OutputError: it is refused.
    """
    refuse_folder(path)
    refuse_missing_folder(path)
    refuse_special(path)
    if os.path.lexists(path) and not force:
        raise OutputExistsError(f"{path}: exists already; pass --force (force=True) to replace it")


def refuse_missing_folder(path: Path) -> None:
    """Refuse an output in a folder that does not exist.

    Raises:
        OutputError: it does not, or is no folder.
    """
    if not _is_folder(path.parent):
        remedy = "it is a file" if path.parent.is_file() else "make it first"
        raise OutputError(f"{path}: the folder {path.parent} does not exist; {remedy}")


def refuse_folder(path: Path) -> None:
    """Refuse an output that is a folder.

    Raises:
        OutputError: it is one.
    """
    if not path.name or _is_folder(path):
        raise OutputError(f"{path}: is a folder; expected a file name; add one to it")


def _is_folder(path: Path) -> bool:
    """Whether a folder is in a place; no where its name is one that no file can have."""
    with contextlib.suppress(OSError):
        return path.is_dir()
    return False


def refuse_special(path: Path) -> None:
    """Refuse an output that is a device, a FIFO or a socket, or a link to one: a file would take its place.

    Raises:
        OutputError: it is no file.
    """
    if is_special(path):
        raise OutputError(f"{path}: is a device, a FIFO or a socket; expected a file")


def is_special(path: Path) -> bool:
    """Whether a device, a FIFO or a socket, or a link to one, is in a place."""
    with contextlib.suppress(OSError):  # nothing is there, or a name too long to exist
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False
