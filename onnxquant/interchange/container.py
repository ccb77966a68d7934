"""The base of containers: which files are of its kind, what they hold, and how they are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.json_data import JsonObject, JsonValue

# Bytes of the largest file of a folder, as Hugging Face has them.
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Output:
    """The place where a checkpoint is written.

    Attributes:
        path: file or folder.
        shard_bytes: bytes of the largest file of a folder whose container cuts a checkpoint into files.
        config: config.json beside the source; None: there is none.
    """

    path: Path
    shard_bytes: int = SHARD_BYTES
    config: JsonObject | None = None


class Container(ABC):
    """A kind of file, or of folder, that holds tensors. The first line of a subclass's docstring is its summary.

    Attributes:
        name: name for options and reports.
        suffixes: ends of the names of its files.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder that exists is of this kind, by its first bytes or the names in it."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path) -> Checkpoint:
        """The tensors of a file; their numbers are read later.

        Raises:
            CheckpointError: the file is damaged, or holds what cannot be read.
        """

    @classmethod
    @abstractmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """The reason why the container cannot hold a tensor; None where it can."""

    @classmethod
    def cuts(cls, path: Path) -> bool:
        """Whether an output of this name is cut into several files where it is large."""
        return False

    @classmethod
    def is_folder(cls, path: Path) -> bool:
        """Whether an output of this name becomes a folder."""
        return cls.cuts(path)

    @classmethod
    @abstractmethod
    def write(cls, output: Output, tensors: Sequence[Tensor], metadata: Mapping[str, JsonValue]) -> None:
        """Write tensors that the container can hold, one in memory at a time; the file appears whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
