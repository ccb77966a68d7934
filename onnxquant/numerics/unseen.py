"""The quality to expect on samples of other sources: a mean, and an interval from how far the sources differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxquant.json_data import OPTIONAL
from onnxquant.numerics.decibels import decibels

# A figure whose interval reaches no further to either side stands for itself.
PRECISE_DB = 2.0
# Better samples count as exact: how many digits of nothing they lose says nothing.
_EXACT_DB = 100.0
# Of fewer samples than this the worst tenth is less than one.
_TENTHS = 10
# Fewer sources tell nothing of others.
_FEWEST_SOURCES = 4
# Draws of sources, and the part of them that may keep less.
_DRAWS, _MISSED = 500, 0.2
# Factors of the standard error of a mean of 2, 3, ... sources, for an interval that holds it 9 times of 10.
_FACTORS = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75)
_LARGE = 1.65


@dataclass(frozen=True)
class UnseenQuality:
    """Signal to noise ratio of the worst part of the outputs, each sample judged by what other sources made.

    Attributes:
        output: name of the output, with the index of the part.
        sqnr_db: mean of the ratios of the samples.
        low_db, high_db: interval that holds the mean of samples of other sources, 9 times of 10.
        worst_tenth_db: mean of the worst tenth; None for fewer than ten samples.
        sources: number of sources.
        samples: number of samples.
        kept_db: ratio over all samples that as many other sources keep in every part, 4 times of 5; None in old reports, and
            where there are too few sources to tell.
    """

    output: str
    sqnr_db: float
    low_db: float
    high_db: float
    sources: int
    samples: int
    worst_tenth_db: float | None = field(default=None, metadata=OPTIONAL)
    kept_db: float | None = field(default=None, metadata=OPTIONAL)

    @classmethod
    def of(cls, output: str, ratios: Sequence[float], sources: Sequence[str]) -> UnseenQuality:
        """The quality that the ratios of samples show.

        Args:
            output: name of the output.
            ratios: ratio of each sample, in decibels.
            sources: source of each sample.
        """
        ratios = [max(-_EXACT_DB, min(ratio, _EXACT_DB)) for ratio in ratios]
        by_source: dict[str, list[float]] = {}
        for ratio, source in zip(ratios, sources, strict=True):
            by_source.setdefault(source, []).append(ratio)
        mean, half = _mean(ratios), _half_width(by_source)
        tenth = _mean(sorted(ratios)[: len(ratios) // _TENTHS]) if len(ratios) >= _TENTHS else None
        return cls(output, mean, mean - half, mean + half, len(by_source), len(ratios), tenth)

    @property
    def is_precise(self) -> bool:
        """Whether the interval is so narrow that the mean stands for it."""
        return self.high_db - self.low_db <= 2 * PRECISE_DB


def kept_ratio(powers: Sequence[tuple[float, float]], sources: Sequence[str]) -> float | None:
    """The ratio over all samples that as many other sources keep, 4 times of 5; None where there are too few to tell.

    Few loud samples may decide about that ratio: how far it scatters shows in draws from these sources. They are of half as
    many, which scatter by as much as the ratios of twice as many differ.

    Args:
        powers: powers of signal and noise of each sample.
        sources: source of each sample.
    """
    names = {source: i for i, source in enumerate(dict.fromkeys(sources))}
    if len(names) < _FEWEST_SOURCES:
        return None
    sums = np.zeros((len(names), 2))
    np.add.at(sums, [names[source] for source in sources], np.array(powers, np.float64))
    if not np.isfinite(sums).all():
        return -math.inf
    drawn = np.random.default_rng(0).multinomial(len(names) // 2, np.full(len(names), 1 / len(names)), _DRAWS) @ sums
    return sorted(decibels(signal, noise) for signal, noise in drawn.tolist())[int(_MISSED * _DRAWS)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _half_width(by_source: Mapping[str, Sequence[float]]) -> float:
    """Half the width of the interval of the mean of all sources."""
    means, count = [_mean(ratios) for ratios in by_source.values()], len(by_source)
    if count < 2:
        return math.inf
    variance = sum((mean - _mean(means)) ** 2 for mean in means) / (count - 1)
    factor = _FACTORS[count - 2] if count - 2 < len(_FACTORS) else _LARGE
    return factor * math.sqrt(variance / count)
