"""Folds of samples: parts of whole sources. What judges a fold is made from the others, so that every sample judges."""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.calibration.feeds import Chosen, Feeds, spread_places

# Folds of six sources or more. Up to so many sources are a fold each.
_FOLDS, _SINGLE = 4, 5
# Fewer samples than these are not divided.
_FEWEST_SAMPLES = 4


@dataclass(frozen=True)
class FoldedSamples:
    """Samples with the fold of each.

    Attributes:
        feeds: the samples.
        folds: fold of each sample; empty where samples are not divided, and judge what they made themselves.
        sources: source of each sample.
    """

    feeds: Feeds
    folds: tuple[int, ...]
    sources: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of folds; 0 where samples are not divided."""
        return len(set(self.folds))

    def some(self, number: int) -> FoldedSamples:
        """So many of the samples, as many of each fold, from as many sources as possible."""
        if len(self.feeds) <= number:
            return self
        chosen: list[int] = []
        for fold in range(self.count):
            places, share = self.places(fold), (number + fold) // self.count
            chosen += [places[i] for i in spread_places(Chosen(self.feeds, frozenset(places)), share)]
        chosen = sorted(chosen) if self.folds else spread_places(self.feeds, number)
        folds = tuple(self.folds[place] for place in chosen) if self.folds else ()
        return FoldedSamples(Chosen(self.feeds, frozenset(chosen)), folds, tuple(self.sources[p] for p in chosen))

    def others(self, fold: int) -> Feeds:
        """The samples of the other folds."""
        return Chosen(self.feeds, frozenset(i for i, other in enumerate(self.folds) if other != fold))

    def places(self, fold: int) -> list[int]:
        """Positions of the samples of a fold."""
        return [i for i, other in enumerate(self.folds) if other == fold]


@dataclass(frozen=True)
class SearchSamples:
    """Samples of a search.

    Attributes:
        calibrating: samples that ranges and biases come from.
        judging: samples that candidates are compared on: some of the same, in the same folds, or others.
        apart: whether nothing that is judged on a sample was made from its source.
    """

    calibrating: FoldedSamples
    judging: FoldedSamples
    apart: bool


def folded(feeds: Feeds) -> FoldedSamples:
    """Samples in folds: each source is in one of them. One source, or fewer than four samples, are not divided.

    Where no source is known, neighbours may be crops of one thing, or lines of one document: folds are contiguous parts.
    """
    sources = tuple(feeds.groups) or _parts(len(feeds))
    names = list(dict.fromkeys(sources))
    if len(names) < 2 or len(sources) < _FEWEST_SAMPLES:
        return FoldedSamples(feeds, (), sources)
    count = len(names) if len(names) <= _SINGLE else _FOLDS
    fold_of = {name: i % count for i, name in enumerate(names)}
    return FoldedSamples(feeds, tuple(fold_of[source] for source in sources), sources)


def undivided(feeds: Feeds) -> FoldedSamples:
    """Samples that are not divided."""
    return FoldedSamples(feeds, (), tuple(feeds.groups) or tuple(map(str, range(len(feeds)))))


def _parts(number: int) -> tuple[str, ...]:
    """Names of contiguous parts of so many samples."""
    return tuple(f"part {i * _FOLDS // max(number, _FOLDS)}" for i in range(number))
