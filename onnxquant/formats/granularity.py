"""Granularities: the weights of a matrix that share a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PerTensor:
    """All weights share a scale."""

    def shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scales of a ``[rows, cols]`` weight."""
        return 1, 1

    def columns(self, cols: int) -> int:
        """Weights of a row that share a scale."""
        return max(cols, 1)

    def rows(self, side: NDArray[Any], part: slice) -> NDArray[Any]:
        """Scales of a range of rows."""
        return side

    def expand(self, side: NDArray[Any], cols: int) -> NDArray[Any]:
        """Scales in a shape that broadcasts to the weights."""
        return side


@dataclass(frozen=True)
class PerRow:
    """The weights of a row share a scale: one per output channel."""

    def shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scales of a ``[rows, cols]`` weight."""
        return rows, 1

    def columns(self, cols: int) -> int:
        """Weights of a row that share a scale."""
        return max(cols, 1)

    def rows(self, side: NDArray[Any], part: slice) -> NDArray[Any]:
        """Scales of a range of rows."""
        return side[part]

    def expand(self, side: NDArray[Any], cols: int) -> NDArray[Any]:
        """Scales in a shape that broadcasts to the weights."""
        return side


@dataclass(frozen=True)
class PerBlock:
    """Blocks of consecutive weights of a row share a scale; the last block of a row may be shorter.

    Attributes:
        size: weights of a block.
        sub_blocks: parts of a block, each with a small factor of its own.
    """

    size: int
    sub_blocks: int = 1

    def shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scales of a ``[rows, cols]`` weight."""
        return rows, -(-cols // self.size)

    def columns(self, cols: int) -> int:
        """Weights of a row that share a scale."""
        return self.size

    def rows(self, side: NDArray[Any], part: slice) -> NDArray[Any]:
        """Scales of a range of rows."""
        return side[part]

    def expand(self, side: NDArray[Any], cols: int) -> NDArray[Any]:
        """Scales in a shape that broadcasts to the weights."""
        return np.repeat(side, self.size, axis=1)[:, :cols]


Granularity = PerTensor | PerRow | PerBlock
