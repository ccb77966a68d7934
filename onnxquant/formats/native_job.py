"""Parameters of the compiled encoders that do not follow from a format's name, planes and granularity."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.matrix import Matrix


class ZeroPoint(IntEnum):
    """The zero points of a format, as the library numbers them."""

    NONE = 0
    CODE = 1
    FLOAT16 = 2


@dataclass(frozen=True, eq=False)
class LevelSearch:
    """The search for the level of a table that is nearest to a float.

    Attributes:
        levels: distinct values in ascending order.
        codes: code of each level, uint8.
        bounds: bounds between levels, float32, an infinite one behind the last.
        starts: number of bounds below all floats with the same upper 16 bits, uint8 [65536].
    """

    levels: Matrix
    codes: NDArray[np.uint8]
    bounds: Matrix
    starts: NDArray[np.uint8]

    @classmethod
    def between(cls, levels: Matrix, codes: NDArray[np.uint8], bounds: Matrix) -> LevelSearch:
        """The search between some bounds.

        Raises:
            ValueError: two bounds share their upper 16 bits, so that one comparison does not tell them apart.
        """
        upper = np.arange(1 << 16, dtype=np.uint32) << 16
        ends = np.stack([upper.view(np.float32), (upper | 0xFFFF).view(np.float32)])
        starts = np.searchsorted(bounds, ends.min(axis=0), side="left")
        within = np.searchsorted(bounds, ends.max(axis=0), side="right") - starts
        if (within > 1).any():
            raise ValueError("two bounds of a table share their upper 16 bits")
        return cls(levels, codes, np.append(bounds, np.float32(np.inf)).astype(np.float32), starts.astype(np.uint8))


@dataclass(frozen=True)
class NativeJob:
    """Parameters of a compiled encoder.

    Attributes:
        zero_point: type of the zero points.
        table: value of each code, float32 [256]; None: codes are numbers.
        search: search for the codes of a table; None: the encoder computes codes.
        seed: seed of stochastic rounding; None: round to nearest.
    """

    zero_point: ZeroPoint = ZeroPoint.NONE
    table: Matrix | None = None
    search: LevelSearch | None = None
    seed: int | None = None
