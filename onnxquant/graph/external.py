"""Places that a tensor's external data may lie in, and safe mapping of it.

A model names files; the name is untrusted. Only a regular file below the model's own folder is opened, reached
without symbolic links, and only inside its bounds. ``roots`` names further folders whose files may be reached through
links: those that the user allows, and the folder of the model file where the model itself is a link (a download cache).
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import onnx

from onnxquant.errors import ExternalDataError

_KEYS = {"location", "offset", "length", "checksum"}


class Reference(NamedTuple):
    """The place of external data: the name of its file, where it starts there, and its length.

    Attributes:
        location: name of the file.
        offset: byte in the file.
        length: number of bytes; None: to the end of the file.
    """

    location: str
    offset: int
    length: int | None


def reference(tensor: onnx.TensorProto) -> Reference:
    """The place that an external tensor states.

    Raises:
        ExternalDataError: an unknown key, a missing location, or a number that is not one.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    unknown = sorted(set(entries) - _KEYS)
    if unknown:
        raise ExternalDataError(f"tensor {tensor.name!r}: unknown external data key {unknown[0]!r}")
    if "location" not in entries:
        raise ExternalDataError(f"tensor {tensor.name!r}: external data without a location")
    numbers: dict[str, int] = {}
    for key in ("offset", "length"):
        text = entries.get(key)
        if text is None:
            continue
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise ExternalDataError(f"tensor {tensor.name!r}: external data {key} is {text!r}, expected bytes >= 0")
        numbers[key] = int(text)
    return Reference(entries["location"], numbers.get("offset", 0), numbers.get("length"))


def refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor have its bytes in a file, and none of its own."""
    del tensor.external_data[:]
    for field in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
        tensor.ClearField(field)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = onnx.TensorProto.EXTERNAL


def open_mapped(folder: Path, location: str, roots: Sequence[Path] = ()) -> memoryview:
    """Map the file ``location`` below ``folder`` for reading.

    Raises:
        ExternalDataError: the location escapes the folder, is a link, is not a regular file or is missing.
    """
    try:
        base, path = _contained(folder, location, roots)
        descriptor = _open(base, path)
    except OSError as error:
        raise ExternalDataError(f"external data {location!r}: {error.strerror}: {folder}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ExternalDataError(f"external data {location!r} is not a regular file")
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _open(base: Path, path: Path) -> int:
    """Open ``path`` from ``base`` down, folder by folder: a link that appears after the check is not followed either."""
    *folders, name = path.parts
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            above, descriptor = descriptor, os.open(part, flags, dir_fd=descriptor)
            os.close(above)
        # O_NONBLOCK: a FIFO must not hang us.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _contained(folder: Path, location: str, roots: Sequence[Path]) -> tuple[Path, Path]:
    """The folder that holds the file, and its path from there."""
    parts = PurePosixPath(location).parts
    if not parts or "\x00" in location:
        raise ExternalDataError(f"external data location {location!r} is not a file name")
    if PurePosixPath(location).is_absolute() or Path(location).is_absolute() or ".." in parts:
        raise ExternalDataError(f"external data location {location!r} leaves the model's folder")
    base = folder.resolve()
    path = base.joinpath(*parts)
    try:
        real = path.resolve()
    except RuntimeError:  # how pathlib reports a loop of links
        raise ExternalDataError(f"external data location {location!r} is a loop of symbolic links") from None
    if real == path:
        return base, path.relative_to(base)
    for root in (r.resolve() for r in roots):
        if real.is_relative_to(root) and real != root:
            return root, real.relative_to(root)
    raise ExternalDataError(
        f"external data location {location!r} passes through a symbolic link to {real}; "
        f"if it is meant, allow its folder with --external-root {real.parent} (external_root=...)"
    )
