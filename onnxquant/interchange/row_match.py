"""Rows of a graph's weight found again among the rows of a checkpoint's weights, by their values.

Rotary models pair the rows of queries and keys in one of two ways, some graphs join queries, keys and values in one product,
and some checkpoints do: in each case a row of the graph is a row of the checkpoint, somewhere. Rows are compared by 64 seeded
products first, then as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxquant.interchange.tensor import Tensor
from onnxquant.numerics.arrays import Array, Doubles

# Products of a row that stand for it.
_PRODUCTS = 64
# Rows of the graph that tell which weights of the checkpoint are looked at.
_SAMPLED = 48
# Products of two lists of rows that are held at a time.
_CHUNK = 1 << 24
_SEED = 0
# Largest part of a weight's power that codes may lose: ternary ones keep 2 dB.
LOST = 0.65


@dataclass(frozen=True)
class Rows:
    """The rows of a checkpoint's weight that are those of a graph's weight.

    Attributes:
        sources: weights of the checkpoint.
        rows: number of each row, counted through all sources; None: all rows of the one source, in their order.
        lost: part of the power of the graph's weight that differs.
    """

    sources: tuple[Tensor, ...]
    rows: Array | None
    lost: float


@dataclass(frozen=True)
class Nearest:
    """The weight of a checkpoint that is most like a graph's weight.

    Attributes:
        name: its name.
        lost: part of the power that differs.
    """

    name: str
    lost: float


@dataclass
class RowIndex:
    """The rows of all weights of a checkpoint that have one number of columns.

    Attributes:
        sources: the weights.
        cols: their columns.
    """

    sources: Sequence[Tensor]
    cols: int
    _products: Doubles = field(init=False)
    _firsts: Array = field(init=False)

    def __post_init__(self) -> None:
        """Multiply all rows with seeded columns."""
        random = np.random.default_rng(_SEED)
        self._columns = random.standard_normal((self.cols, _PRODUCTS)).astype(np.float32)
        counts = [tensor.matrix_shape[0] for tensor in self.sources]
        self._firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._products = np.concatenate([self._signature(values_of(tensor)) for tensor in self.sources])

    def find(self, weight: Array) -> Rows | Nearest:
        """The rows of a graph's weight; else the most similar weight of the checkpoint."""
        signature = self._signature(weight)
        sampled = np.linspace(0, len(weight) - 1, min(_SAMPLED, len(weight))).astype(int)
        hits = np.searchsorted(self._firsts, self._most_alike(signature[sampled], self._products), side="right") - 1
        places = np.unique(hits)
        rows = np.concatenate([np.arange(self._firsts[p], self._firsts[p + 1]) for p in places])
        chosen = rows[self._most_alike(signature, self._products[rows])]
        lost = self._lost(weight, chosen, places)
        if lost > LOST:
            return Nearest(self.sources[int(np.bincount(hits).argmax())].name, lost)
        owner = np.searchsorted(self._firsts, chosen, side="right") - 1
        sources = np.unique(owner)
        offsets = {int(p): int(n) for p, n in zip(sources, np.cumsum([0, *self._counts(sources)[:-1]]), strict=True)}
        within = chosen - self._firsts[owner] + np.array([offsets[int(p)] for p in owner])
        return Rows(tuple(self.sources[int(p)] for p in sources), within, lost)

    def _counts(self, sources: Array) -> list[int]:
        return [self.sources[int(p)].matrix_shape[0] for p in sources]

    def _signature(self, weight: Array) -> Doubles:
        """Products of each row, of length one."""
        products = (np.ascontiguousarray(weight, np.float32) @ self._columns).astype(np.float64)
        norms = np.linalg.norm(products, axis=1, keepdims=True)
        signature: Doubles = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        return signature

    def _most_alike(self, signature: Doubles, products: Doubles) -> Array:
        """Number of the row of ``products`` that each row of a signature is most like."""
        step = max(1, _CHUNK // max(len(products), 1))
        parts = [signature[i : i + step] @ products.T for i in range(0, len(signature), step)]
        return np.concatenate([part.argmax(axis=1) for part in parts])

    def _lost(self, weight: Array, chosen: Array, places: Array) -> float:
        """Part of a weight's power that differs from the rows that were chosen for it."""
        error = 0.0
        for place in places:
            own = (chosen >= self._firsts[place]) & (chosen < self._firsts[place + 1])
            if own.any():
                values = values_of(self.sources[int(place)])[chosen[own] - self._firsts[place]]
                error += float(np.square(values - weight[own], dtype=np.float64).sum())
        return error / max(float(np.square(weight, dtype=np.float64).sum()), 1e-300)


def values_of(tensor: Tensor) -> Array:
    """The decoded matrix of a weight."""
    return tensor.array().reshape(tensor.matrix_shape)


def decibels_of(lost: float) -> float:
    """Decibels that a weight keeps which loses a part of its power."""
    return -10 * float(np.log10(max(lost, 1e-30)))


def lost_between(weight: Array, values: Array) -> float:
    """Part of a weight's power that differs from other values of its shape."""
    power = float(np.square(weight, dtype=np.float64).sum())
    return float(np.square(values - weight, dtype=np.float64).sum()) / max(power, 1e-300)
