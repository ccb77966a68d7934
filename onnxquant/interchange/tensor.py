"""A tensor of a checkpoint, and a checkpoint: what every container reads into and writes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.formats.base import Encoded, Format
from onnxquant.interchange.cursor import MappedFile
from onnxquant.interchange.ggml_types import Kind, type_named
from onnxquant.interchange.stored import StoredBytes
from onnxquant.json_data import JsonValue
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Array

# Sizes beyond these are damage; numpy has no arrays of them.
_MOST_AXES, _MOST_ELEMENTS = 32, 1 << 59
# Characters of the longest name.
_LONGEST_NAME = 1 << 12
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
Value = Encoded | Array
"""A tensor in memory: an encoded weight, or an array of plain numbers."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint; its numbers are read when they are asked for.

    Attributes:
        name: name in the checkpoint.
        shape: shape as numpy has it, the last axis contiguous.
        kind: format of its codes, or type of its plain numbers.
        load: function that returns its value, a new one with each call.
        blocks: function that returns its bytes as the format's own project defines them, where the file holds them so.
        names: names of the arrays that it is stored in, where they are several.
        matrix: rows and columns of its codes, where rows do not lie along the last axis.
        original_dtype: type of the floats that its codes are of, where a file says so.

    Raises:
        CheckpointError: its name is too long or has control characters, or its shape is no shape.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    load: Callable[[], Value] = field(repr=False)
    blocks: Callable[[], StoredBytes] | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    matrix: tuple[int, int] | None = None
    original_dtype: str | None = None

    def __post_init__(self) -> None:
        """Check the name and the shape, which come from files."""
        if len(self.name) > _LONGEST_NAME:
            raise CheckpointError(f"tensor {self.name[:60]!r}...: its name has {len(self.name)} characters")
        if _CONTROLS.search(self.name):
            raise CheckpointError(f"tensor {self.name!r}: its name has control characters")
        if not is_shape(self.shape):
            raise CheckpointError(f"tensor {self.name}: {str(list(self.shape))[:100]} is no shape")

    @property
    def label(self) -> str:
        """Name of its format or type, for people."""
        return self.kind.name

    @property
    def is_encoded(self) -> bool:
        """Whether it holds codes of a format."""
        return isinstance(self.kind, Format)

    @property
    def is_float(self) -> bool:
        """Whether it holds plain floats, which can be quantized."""
        return isinstance(self.kind, np.dtype) and is_float(self.kind)

    @property
    def size(self) -> int:
        """Number of its elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that its format or type takes for it."""
        if isinstance(self.kind, Format):
            return self.kind.nbytes(*self.matrix_shape)
        if isinstance(self.kind, np.dtype):
            return self.size * self.kind.itemsize
        return type_named(self.kind).nbytes(self.size)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of its codes: of a matrix whose rows lie along the last axis, or others."""
        return self.matrix or (prod(self.shape[:-1]), self.shape[-1] if self.shape else 1)

    def array(self) -> Array:
        """Its numbers, decoded where they are codes, in its shape."""
        value = self.load()
        return (
            replace(value, shape=self.shape).in_shape(dispatch.decode(value)) if isinstance(value, Encoded) else value
        )

    def encoded(self) -> Encoded:
        """Its codes.

        Raises:
            CheckpointError: it holds plain numbers.
        """
        value = self.load()
        if not isinstance(value, Encoded):
            raise CheckpointError(f"{self.name}: holds plain numbers ({self.label}), and no codes")
        return value


def original_dtype(name: object) -> str | None:
    """The name of a type of floats that a file says; None where it is none."""
    return str(name) if name in ("float16", "bfloat16", "float32", "float64") else None


def is_shape(shape: object) -> TypeGuard[Sequence[int]]:
    """Whether something is a sequence of sizes that an array may have."""
    # Where one size is 0 the others must fit numpy's numbers all the same.
    return are_counts(shape) and len(shape) <= _MOST_AXES and prod(max(size, 1) for size in shape) < _MOST_ELEMENTS


def are_counts(values: object) -> TypeGuard[Sequence[int]]:
    """Whether something is a sequence of numbers of bytes or elements."""
    return isinstance(values, list | tuple) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of a type are floats; bfloat16 and the 8-bit floats are no types of numpy's own."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def plain(name: str, array: Array) -> Tensor:
    """The tensor of an array; numbers of the other byte order are turned round."""
    array = np.asarray(array, array.dtype.newbyteorder("<"))
    return Tensor(name, array.shape, array.dtype, lambda: array)


def encoded_tensor(name: str, encoded: Encoded, shape: tuple[int, ...] | None = None) -> Tensor:
    """The tensor of an encoded weight."""
    shape = shape or encoded.shape
    return Tensor(name, shape, encoded.format, lambda: encoded, matrix=rows_of(shape, encoded.rows, encoded.cols))


def rows_of(shape: tuple[int, ...], rows: int, cols: int) -> tuple[int, int] | None:
    """Rows and columns of codes; None where rows lie along the last axis of a shape."""
    return None if (rows, cols) == (prod(shape[:-1]), shape[-1] if shape else 1) else (rows, cols)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file or a folder.

    Attributes:
        path: the file or folder.
        container: name of the container that it is.
        tensors: the tensors by name, in their order.
        metadata: entries of the file beside its tensors, as JSON has them.
        notes: sentences about what a reader should know.
        files: the files that it is read from; an output may take the place of none of them.
        has_checksums: whether every tensor is compared with a checksum when it is read.
    """

    path: Path
    container: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[MappedFile, ...] = field(default=(), repr=False)
    has_checksums: bool = False

    @property
    def folder(self) -> Path:
        """The folder that holds the files beside its tensors."""
        return self.path if self.path.is_dir() else self.path.parent

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: has no tensor {name!r}")
        return self.tensors[name]
