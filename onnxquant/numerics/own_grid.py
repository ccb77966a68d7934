"""Grids that floats lie on already: steps of which the floats of a group are whole multiples.

A step divides the smallest magnitude of its group: its whole fractions are tried in float64, the largest first. That of
random floats is so small that the largest magnitude would be too many steps, and no more is read than the first few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from onnxquant.numerics.arrays import Array, Doubles

# The largest multiple: codes of 8 bits with zero at either end.
MOST = 255
# Units in the last place by which a float may miss its multiple: the product was rounded, and perhaps its step before. Of
# float32 they are those of the largest float of a group: some exporters add a product to a minimum, which is as large.
_ULPS = 2


@dataclass(frozen=True)
class GroupSteps:
    """Steps of groups of floats.

    Attributes:
        low: lower bound of each step, float64. Multiples of steps between the bounds round to the floats; both bounds of a
            group of zeros are zero.
        high: upper bound of each step, float64; that of both where no step gives every float exactly.
        least: smallest multiple in each group, float64; at most zero.
        most: largest multiple in each group, float64; at least zero.
    """

    low: Doubles
    high: Doubles
    least: Doubles
    most: Doubles

    @property
    def step(self) -> NDArray[np.float32]:
        """A step for each group."""
        step: NDArray[np.float32] = ((self.low + self.high) / 2).astype(np.float32)
        return step

    @property
    def reach(self) -> Doubles:
        """The largest magnitude of a multiple in each group."""
        return np.maximum(self.most, -self.least)

    def divided(self, factors: Doubles) -> GroupSteps:
        """The same floats on steps that are whole fractions of these."""
        return GroupSteps(self.low / factors, self.high / factors, self.least * factors, self.most * factors)


def group_steps(groups: Array, most: int = MOST) -> GroupSteps | None:
    """Steps of groups of floats; None where not every group lies on a grid.

    Args:
        groups: float32 or float16 [groups, floats of a group].
        most: largest magnitude of a multiple.
    """
    size = np.abs(groups.astype(np.float64))
    peak = size.max(axis=1, initial=0)
    if not np.isfinite(peak).all():
        return None
    tolerance = _ULPS * float(np.finfo(groups.dtype).eps)
    slack = tolerance if groups.dtype == np.float32 else 0.0
    count = _counts(size, peak, most, tolerance, slack)
    if count is None:
        return None
    whole = np.rint(size * np.divide(count, peak, out=np.zeros_like(peak), where=peak > 0)[:, None])
    divisor = np.where(whole == 0, np.nan, whole)
    below, above = (_rounding_to(groups, end) / divisor for end in (0, np.inf))
    low, high = np.fmax.reduce(below, axis=1, initial=0), np.fmin.reduce(above, axis=1, initial=np.inf)
    high[count == 0] = 0
    uneven = low > high
    low[uneven] = high[uneven] = peak[uneven] / count[uneven]
    multiples = np.copysign(whole, groups)
    steps = GroupSteps(low, high, multiples.min(axis=1, initial=0), multiples.max(axis=1, initial=0))
    return _in_float32(steps, groups, multiples, most)


def _rounding_to(groups: Array, end: float) -> Doubles:
    """The middles between magnitudes and the next floats of their type, towards an end."""
    size = np.abs(groups)
    middle: Doubles = (size.astype(np.float64) + np.nextafter(size, size.dtype.type(end)).astype(np.float64)) / 2
    return middle


def _counts(size: Doubles, peak: Doubles, most: int, tolerance: float, slack: float) -> Doubles | None:
    """Steps in the largest magnitude of each group, 0 in one of zeros; None where they are too many.

    Args:
        size: magnitudes [groups, floats of a group].
        peak: the largest of each group.
        most: largest number of steps.
        tolerance: error of a magnitude, as a share of it.
        slack: further error, as a share of the peak of its group.
    """
    counts = np.zeros_like(peak)
    left = np.flatnonzero(peak > 0)
    is_zero = size <= slack * peak[:, None]
    quotient = peak[left] / np.where(is_zero, np.inf, size)[left].min(axis=1, initial=np.inf)
    for divisor in range(1, most + 1):
        if not len(left):
            break
        ratio = quotient * divisor
        count = np.rint(ratio)
        if (count > most).any():
            return None
        possible = np.flatnonzero(np.abs(ratio - count) <= (tolerance + slack * quotient) * ratio)
        own = left[possible]
        multiples = size[own] * (count[possible] / peak[own])[:, None]
        allowed = tolerance * multiples + slack * count[possible, None]
        is_whole = (np.abs(multiples - np.rint(multiples)) <= allowed).all(axis=1)
        counts[own[is_whole]] = count[possible[is_whole]]
        left, quotient = (np.delete(side, possible[is_whole]) for side in (left, quotient))
    return None if len(left) else counts


def _in_float32(steps: GroupSteps, groups: Array, multiples: Doubles, most: int) -> GroupSteps:
    """Steps whose multiples are the floats exactly in float32, where few enough multiples allow it.

    Floats may be multiples of 3 steps that were float32 each, and 3 steps are not: one step is found then.

    Args:
        steps: steps of the groups.
        groups: the floats.
        multiples: multiple of each float.
        most: largest magnitude of a multiple.
    """
    bounds, factors = np.stack([steps.low, steps.high]), np.ones_like(steps.low)
    left = np.arange(len(groups))
    for factor in range(1, most + 1):
        left = left[factor * steps.reach[left] <= most]
        if not len(left):
            break
        for ends in ((0, 1), (0, 0), (1, 1)):
            own = bounds[ends, :][:, left]
            step = (own.mean(axis=0) / factor).astype(np.float32)
            products = (multiples[left] * factor).astype(np.float32) * step[:, None]
            fits = (products.astype(groups.dtype) == groups[left]).all(axis=1)
            bounds[:, left[fits]], factors[left[fits]] = own[:, fits], factor
            left = left[~fits]
    return GroupSteps(bounds[0], bounds[1], steps.least, steps.most).divided(factors)


def concatenated(parts: Sequence[GroupSteps]) -> GroupSteps:
    """The steps of all groups of several parts."""
    names = [field.name for field in fields(GroupSteps)]
    return GroupSteps(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def joined(parts: Sequence[GroupSteps], most: int = MOST) -> GroupSteps | None:
    """The step of all groups together, as one group; None where they have none.

    Args:
        parts: steps of the groups.
        most: largest magnitude of a multiple.
    """
    steps = concatenated(parts)
    own = np.flatnonzero(steps.step)
    if not len(own):
        none = np.zeros(1)
        return GroupSteps(none, none, none, none)
    shared = group_steps(steps.step[None, own], most)
    if shared is None:
        return None
    every = steps.divided(np.rint(steps.step / shared.step))
    if every.reach.max() > most:
        return None
    low, high = every.low[own].max(keepdims=True), every.high[own].min(keepdims=True)
    return GroupSteps(low, high, every.least.min(keepdims=True), every.most.max(keepdims=True))
