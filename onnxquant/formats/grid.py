"""The values that an encoded weight can take while its scales stay as they are: what solvers choose codes on.

Every format whose weights are codes times a scale, plus a minimum or not, is one grid: ``levels[i] * step + shift``, where
``step`` and ``shift`` belong to a group of columns, and columns are in the order in which they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Indices = NDArray[np.uint8]


@dataclass(frozen=True)
class Grid:
    """Values of a weight [rows, cols].

    Attributes:
        levels: ascending, float32 [at most 256]; one apart where codes are integers.
        step: float32 [rows, groups] or [1, 1]; zero where a group is constant, negative where a format has it so.
        shift: float32, as ``step``.
        group: columns per step; the last group of a row may be shorter.
        together: groups of a row, one after the other, whose steps and shifts are stored together.
        shifts: whether ``shift`` can be chosen; else it is a fixed multiple of ``step``.
    """

    levels: Floats
    step: Floats
    shift: Floats
    group: int
    together: int = 1
    shifts: bool = False

    @property
    def is_even(self) -> bool:
        """Whether levels are one apart."""
        return bool((np.diff(self.levels) == 1).all())
