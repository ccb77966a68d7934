"""The division of samples by source: some make a result, those of other sources judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxquant.calibration.feeds.base import Chosen, Feeds

JUDGED = 16
"""Largest number of samples that judge, where no more are asked for."""

MANY_JUDGED = 100
"""The same of small samples that whole files are compared on: a part of a hundred of their answers shows only there."""

# Fewer samples than these are not divided.
_FEWEST_SAMPLES = 8
# The part of all samples that is held out.
_PART = 4
# Sources that judge, at least, where there are four times as many.
_SOURCES = 3


@dataclass(frozen=True)
class Split:
    """Samples that make a result, and samples that judge it.

    Attributes:
        calibrating: samples that statistics and solved weights come from.
        judging: samples of other sources; all samples where there are too few to divide.
        apart: whether no source is in both.
        whole: all samples.
        held_out: all samples of the sources that judge; None: ``judging`` is all.
    """

    calibrating: Feeds
    judging: Feeds
    apart: bool
    whole: Feeds
    held_out: Feeds | None = None


def split(feeds: Feeds, judged: int, calibrated: int, most: int = JUDGED, fewer: int | None = None) -> Split:
    """Divide samples by source; fewer than eight are not divided: both parts are all of them.

    A quarter of the samples is held out, at most 16 of them or ``most``; or as many as are asked for, if calibration
    keeps as many as it takes, or half of all. These are whole sources, spread over all of them, so that no source is in
    both parts: three or more where there are twelve. Where no source is known, neighbours may be crops of one thing, or
    lines of one document: the last samples are held out.

    Args:
        feeds: the samples.
        judged: number of samples that are to judge.
        calibrated: largest number of samples that calibration takes.
        most: largest number of samples that judge, where no more are to.
        fewer: number of samples that calibration of a slow model takes, which changes nothing in those that judge; None:
            as many as ``calibrated``.
    """
    total = len(feeds)
    count = max(min(total // _PART, most), min(judged, max(total // 2, total - calibrated)))
    if total < _FEWEST_SAMPLES or len(set(feeds.groups)) == 1:
        feeds = feeds if fewer is None else Chosen(feeds, range(judged + fewer))
        return Split(feeds, feeds, apart=False, whole=feeds)
    held_out = _some_of(_sources(feeds), count / total) if feeds.groups else [list(range(total - count, total))]
    taken = frozenset(place for source in held_out for place in source)
    calibrating = [place for place in range(total) if place not in taken][
        : calibrated if fewer is None else fewer
    ]
    judging = _in_turn(held_out)[:count]
    return Split(
        Chosen(feeds, frozenset(calibrating)),
        Chosen(feeds, frozenset(judging)),
        apart=True,
        whole=feeds if fewer is None else Chosen(feeds, frozenset((*calibrating, *judging))),
        held_out=Chosen(feeds, taken),
    )


def _some_of(sources: Sequence[list[int]], part: float) -> list[list[int]]:
    """So large a part of the sources, spread over all of them; of twelve or more at least three, as sources differ."""
    number = max(1, min(_SOURCES, len(sources) // _PART), min(round(len(sources) * part), len(sources) // 2))
    return [sources[(i + 1) * len(sources) // number - 1] for i in range(number)]


def spread(feeds: Feeds, count: int) -> Feeds:
    """``count`` of the samples, from as many sources as possible."""
    return feeds if len(feeds) <= count else Chosen(feeds, frozenset(spread_places(feeds, count)))


def spread_places(feeds: Feeds, count: int) -> list[int]:
    """Positions of ``count`` of the samples, in order, from as many sources as possible."""
    if len(feeds) <= count:
        return list(range(len(feeds)))
    sources = _sources(feeds)
    chosen = _some_of(sources, count / len(sources)) if len(sources) >= 2 * count else sources
    return sorted(_in_turn(chosen)[:count])


def _sources(feeds: Feeds) -> list[list[int]]:
    """Positions of the samples of each source; where no source is known, each sample is one."""
    places: dict[str, list[int]] = {}
    for place, group in enumerate(feeds.groups or map(str, range(len(feeds)))):
        places.setdefault(group, []).append(place)
    # Sources of one folder become neighbours: some of all sources are then some of each folder.
    return [places[group] for group in sorted(places, key=lambda group: group.rpartition("/")[0])]


def _in_turn(sources: Sequence[Sequence[int]]) -> list[int]:
    """Positions of all sources: the first of each, the second of each ..."""
    longest = max(map(len, sources), default=0)
    return [places[turn] for turn in range(longest) for places in sources if turn < len(places)]
