"""Outcomes of reading a file under limits of time and memory."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnxquant import Encoded, decode, interchange
from onnxquant.errors import OnnxQuantError
from onnxquant.interchange.ggml_types import Opaque

_SECONDS, _SLACK = 5.0, 64 << 20
# Seconds after which the system ends a process that does not answer signals.
_STUCK = 60
_LONGEST_ERROR = 2000
_PAGE = resource.getpagesize()


class SlowError(Exception):
    """Reading takes longer than it may."""


def outcome_of(source: Path, *, converts: bool = False) -> str:
    """"read", "refused", or a sentence that begins with FAILED.

    Args:
        source: file or folder.
        converts: whether it is converted to other containers, too.
    """
    size = sum(file.stat().st_size for file in ([source] if source.is_file() else source.rglob("*")))
    try:
        with _limits(2 * size + _SLACK):
            return _read(source, converts=converts)
    except OnnxQuantError as error:
        if len(str(error)) > _LONGEST_ERROR or not str(error):
            return "FAILED a sentence of thousands of letters, or none"
        return "refused"
    except Exception as error:  # what this looks for
        return f"FAILED {type(error).__name__}: {str(error)[:100]}".split("0x")[0]


def _read(source: Path, *, converts: bool) -> str:
    """Read all numbers of a file."""
    if source.suffix == ".tensor":
        decode(Encoded.load(source))
        return "read"
    checkpoint = interchange.open_checkpoint(source)
    for tensor in checkpoint.tensors.values():
        if tensor.blocks is not None:
            tensor.blocks()
        if not isinstance(tensor.kind, Opaque):
            tensor.array()
    for end in ("gguf", "safetensors", "axqt") if converts else ():
        with contextlib.suppress(OnnxQuantError):
            interchange.convert(checkpoint, source.parent / f"out.{end}", leave_out=True, force=True)
    return "read"


@contextlib.contextmanager
def _limits(nbytes: int) -> Iterator[None]:
    """Limits of the memory that a block may take, and of its seconds of CPU.

    Raises:
        SlowError: the block takes too long.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    cpu = resource.getrlimit(resource.RLIMIT_CPU)
    before = signal.signal(signal.SIGPROF, _stop)
    begin = time.process_time()
    resource.setrlimit(resource.RLIMIT_DATA, (_memory() + nbytes, hard))
    resource.setrlimit(resource.RLIMIT_CPU, (round(begin) + _STUCK, cpu[1]))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CPU, cpu)
        signal.signal(signal.SIGPROF, before)
    if time.process_time() - begin > _SECONDS:
        raise SlowError


def _stop(number: int, frame: object) -> None:
    raise SlowError


def _memory() -> int:
    """Bytes of the process's own memory, which Linux limits."""
    return int(Path("/proc/self/statm").read_bytes().split()[5]) * _PAGE
