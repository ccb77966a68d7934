"""Masks: which weights of a matrix [rows, cols] stay. Scores choose them; of equal scores the first ones go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Doubles
from onnxquant.pruning.amounts import Amount, Pattern

Mask = NDArray[np.bool_]
GROUP, STAYING = 4, 2
"""Inputs of a group of 2:4, and those of them that stay."""


def scores(weight: NDArray[np.floating], energy: Doubles | None = None) -> Doubles:
    """The score of each weight: its magnitude, times the norm of its input where that is known.

    Args:
        weight: floats [rows, cols].
        energy: sums of squares of the inputs [groups, cols], each group for rows / groups consecutive rows; None: not known.
    """
    size = np.abs(np.asarray(weight, np.float64))
    if energy is None:
        return size
    norms = np.sqrt(np.maximum(energy, 0))
    return np.asarray(size * np.repeat(norms, len(size) // len(norms), axis=0))


def staying(amount: Amount, score: Doubles, *, by_row: bool, taps: int = 1) -> Mask:
    """The weights that stay.

    Args:
        amount: the part that goes; no channels.
        score: the score of each weight [rows, cols].
        by_row: whether each row loses the same part; else the part is one of the whole matrix.
        taps: number of consecutive columns that read one input channel at several positions, as those of a convolution;
            four inputs of 2:4 are those of one position.
    """
    if amount.pattern is Pattern.TWO_OF_FOUR:
        groups = score.reshape(len(score), -1, GROUP, taps).swapaxes(2, 3)
        mask = _largest(groups.reshape(-1, GROUP), GROUP - STAYING)
        return mask.reshape(groups.shape).swapaxes(2, 3).reshape(score.shape)
    rows = score if by_row else score.reshape(1, -1)
    return _largest(rows, round(amount.part * rows.shape[1])).reshape(score.shape)


def _largest(score: Doubles, going: int) -> Mask:
    """All but the lowest ``going`` scores of each row; of equal ones the first go."""
    if not going:
        return np.ones(score.shape, np.bool_)
    bound = np.partition(score, going - 1, axis=1)[:, going - 1 : going]
    below, equal = score < bound, score == bound
    left = going - below.sum(axis=1, keepdims=True)
    going_too: Mask = below | (equal & (np.cumsum(equal, axis=1) <= left))
    return ~going_too
