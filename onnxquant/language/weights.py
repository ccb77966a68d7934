"""The weights of a decoder's graph: rows of a checkpoint's tensors, in the order in which the graph multiplies by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxquant.errors import CheckpointError, WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import Stack
from onnxquant.interchange.joined_rows import by_rows, has_independent_rows, independent, joined
from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.language.architecture import Architecture
from onnxquant.language.names import Names
from onnxquant.numerics.arrays import Array

# Bits of the exponent of formats of 16-bit floats.
_EXPONENTS = {"f16": 0x7C00, "bf16": 0x7F80}
# Tensors that the architecture was read from.
_OF_ROTATIONS = {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"}
# Rows that are looked at together, while they are in the cache.
_ROWS = 64


@dataclass(frozen=True)
class Part:
    """A tensor of the checkpoint, or its rows in another order.

    Attributes:
        tensor: the tensor.
        order: places of its rows; None: as they are.
    """

    tensor: Tensor
    order: Array | None = None


@dataclass(frozen=True)
class Matrix:
    """A weight of the graph [rows, cols], of one tensor or of several below each other.

    Attributes:
        name: name in the graph.
        parts: its tensors.
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Outputs."""
        return sum(part.tensor.shape[0] for part in self.parts)

    @property
    def cols(self) -> int:
        """Inputs."""
        return self.parts[0].tensor.shape[1]

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors of the checkpoint."""
        return [part.tensor for part in self.parts]

    @property
    def format(self) -> Format | None:
        """The format that its rows have as codes; None where they are plain numbers."""
        kind = by_rows(self.parts[0].tensor).kind
        return kind if isinstance(kind, Format) else None

    def encoded(self) -> Encoded:
        """Its codes as they are in the checkpoint.

        Raises:
            CheckpointError: its parts have codes that cannot stand below each other.
        """
        parts = [by_rows(part.tensor).encoded() for part in self.parts]
        if len(parts) == 1 and self.parts[0].order is None:
            return parts[0]
        return joined([independent(part) for part in parts], self._order())

    def stack(self) -> Stack:
        """Its numbers in the types that the checkpoint has them in; codes are decoded to float32."""
        return Stack([_ordered(part.tensor.array(), part.order) for part in self.parts])

    def floats(self) -> Array:
        """Its numbers, float32 [rows, cols].

        Raises:
            WeightError: a tensor holds NaN or infinity, or a number that float32 does not.
        """
        arrays = []
        for part in self.parts:
            with np.errstate(over="ignore"):
                array = np.asarray(_ordered(part.tensor.array(), part.order), np.float32)
            if not np.isfinite([array.min(initial=0), array.max(initial=0)]).all():  # NaN passes through both
                raise WeightError(f"weight {part.tensor.name} holds NaN or infinity")
            arrays.append(array)
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def halves(self, form: Format) -> Encoded:
        """Its 16-bit floats as they are in the checkpoint, in the format of these floats.

        Raises:
            WeightError: it holds NaN or infinity.
        """
        values = self.stack().whole()
        exponent = np.uint16(_EXPONENTS[form.name])
        for begin in range(0, self.rows, _ROWS):
            bits = values[begin : begin + _ROWS].view(np.uint16)
            if (bits & exponent == exponent).any():  # all bits of the exponent are set
                raise WeightError(f"weight {self.name} holds NaN or infinity")
        return Encoded(form, self.rows, self.cols, {"values": values}, (self.rows, self.cols))

    def _order(self) -> Array:
        """Places of its rows among the rows of all parts."""
        before, orders = 0, []
        for part in self.parts:
            count = part.tensor.shape[0]
            orders.append(before + (np.arange(count) if part.order is None else part.order))
            before += count
        return np.concatenate(orders)


def _ordered(array: Array, order: Array | None) -> Array:
    return array if order is None else array[order]


@dataclass
class Weights:
    """The tensors of a checkpoint by the parts of a decoder.

    Attributes:
        checkpoint: the checkpoint.
        architecture: its architecture.
        names: its names.
        used: names of tensors that the graph reads.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    names: Names
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Count tensors that no node reads, and that are part of the decoder all the same."""
        self.used |= _OF_ROTATIONS & self.checkpoint.tensors.keys()
        if self.architecture.is_tied:  # some checkpoints have the embedding a second time, under the name of the other
            self.used |= {self.names.weight("lm_head")} & self.checkpoint.tensors.keys()

    def unused(self) -> list[str]:
        """Names of tensors that the graph does not read."""
        return [name for name in self.checkpoint.tensors if name not in self.used]

    def matrix(self, part: str, rows: int, cols: int, layer: int | None = None) -> Matrix:
        """A weight of one tensor.

        Raises:
            CheckpointError: there is none, or its shape is another.
        """
        tensor = self._tensor(self.names.weight(part, layer), (rows, cols))
        return Matrix(tensor.name, (Part(tensor, self._order(part, rows)),))

    def joined(self, parts: Sequence[Matrix], name: str) -> Matrix | None:
        """Weights below each other as one; None where their codes are of several formats."""
        whole = Matrix(name, tuple(part for matrix in parts for part in matrix.parts))
        kinds = {by_rows(tensor).kind for tensor in whole.tensors}
        form = whole.format
        if len(kinds) > 1 or (form is not None and not has_independent_rows(form, whole.cols)):
            return None
        return whole

    def vector(self, part: str, size: int, layer: int | None = None) -> Array:
        """The weight of a normalization, float32 [size].

        Raises:
            CheckpointError: there is none, or its shape is another.
            WeightError: it holds NaN or infinity.
        """
        values = self._finite(self.names.weight(part, layer), size)
        return np.asarray(values + np.float32(self.architecture.norm_offset), np.float32)

    def bias(self, part: str, size: int, layer: int) -> Array | None:
        """The bias of a product, float32 [size]; None where there is none.

        Raises:
            CheckpointError: its shape is another.
        """
        name = self.names.bias(part, layer)
        if name not in self.checkpoint.tensors:
            return None
        values = self._finite(name, size)
        order = self._order(part, size)
        return values if order is None else values[order]

    def _finite(self, name: str, size: int) -> Array:
        values = np.asarray(self._tensor(name, (size,)).array(), np.float32)
        if not np.isfinite(values).all():
            raise WeightError(f"{self.checkpoint.path}: weight {name} holds NaN or infinity")
        return values

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self.checkpoint.tensors:
            raise CheckpointError(
                f"{self.checkpoint.path}: has no tensor {name!r}, which a decoder of the family "
                f"{self.architecture.family} has, of shape {list(shape)}"
            )
        tensor = self.checkpoint[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.checkpoint.path}: tensor {name}: found shape {list(tensor.shape)}, expected {list(shape)} by the "
                f"configuration"
            )
        if not (tensor.is_encoded or tensor.is_float):
            raise CheckpointError(
                f"{self.checkpoint.path}: tensor {name}: found {tensor.label}, expected floats or codes"
            )
        self.used.add(name)
        return tensor

    def _order(self, part: str, rows: int) -> Array | None:
        """Places of the rows of queries and keys: GGUF files of llamas have both channels of a pair beside each other."""
        if not (self.names.is_gguf and self.architecture.family == "llama" and part in ("q", "k")):
            return None
        size = self.architecture.head_dim
        if rows % size:
            raise CheckpointError(f"{self.checkpoint.path}: {rows} outputs of {part} are no heads of {size} channels")
        return np.arange(rows).reshape(-1, size // 2, 2).swapaxes(1, 2).reshape(-1)
