"""Ratios of powers in decibels."""

from __future__ import annotations

import math


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise, minus infinite without a signal or with noise that is not finite.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0), decibels(0.0, 1.0)
    (20.0, inf, -inf)
    """
    if not math.isfinite(noise):
        return -math.inf
    if not noise:
        return math.inf
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio else -math.inf


def noise_share(sqnr_db: float) -> float:
    """Power of the noise over that of the signal: the inverse of ``decibels``.

    >>> noise_share(20.0)
    0.01
    """
    return float(10 ** (-sqnr_db / 10)) if math.isfinite(sqnr_db) else (0.0 if sqnr_db > 0 else math.inf)
