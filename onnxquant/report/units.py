"""Figures as people read them."""

from __future__ import annotations

import math

from onnxquant.numerics.unseen import UnseenQuality
from onnxquant.validation.latency import Interval


def size(nbytes: float) -> str:
    """Bytes with a unit.

    >>> size(1_500_000)
    '1.5 MB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(nbytes) >= scale:
            return f"{nbytes / scale:.4g} {unit}"
    return f"{nbytes:.0f} B"


def decibels(value: float) -> str:
    """An SQNR; an infinite one is an exact match.

    >>> decibels(31.25), decibels(math.inf)
    ('31.2 dB', 'exact')
    """
    if math.isfinite(value):
        return f"{value:.1f} dB"
    return "nan" if math.isnan(value) else "exact" if value > 0 else "none"


def unseen(quality: UnseenQuality) -> str:
    """The quality to expect on samples of other sources; an interval where the sources differ.

    >>> unseen(UnseenQuality("y", 30.0, 29.0, 31.0, sources=20, samples=40, worst_tenth_db=21.0))
    'worst output y: signal to noise 30.0 dB (21.0 dB in the worst tenth) on samples it has not seen, from 20 sources'
    >>> unseen(UnseenQuality("y", 25.0, 19.6, 30.4, sources=5, samples=5))
    'worst output y: signal to noise 20 to 30 dB on samples it has not seen, from 5 sources'
    """
    figure = decibels(quality.sqnr_db)
    if not quality.is_precise:
        figure = f"{quality.low_db:.0f} to {quality.high_db:.0f} dB"
    tenth = "" if quality.worst_tenth_db is None else f" ({decibels(quality.worst_tenth_db)} in the worst tenth)"
    kind = "slice" if "[" in quality.output else "output"
    return (
        f"worst {kind} {quality.output}: signal to noise {figure}{tenth} on samples it has not seen, "
        f"from {quality.sources} sources"
    )


def milliseconds(seconds: float) -> str:
    """A latency.

    >>> milliseconds(0.00125)
    '1.25 ms'
    >>> milliseconds(1.25)
    '1.25 s'
    """
    return f"{seconds:.3g} s" if round(1e3 * seconds) >= 1000 else f"{1e3 * seconds:.3g} ms"


def times(ratio: float | None) -> str:
    """A ratio; nothing where it is not known.

    >>> times(3.741), times(None)
    ('3.74x', '')
    """
    return "" if ratio is None else f"{ratio:.2f}x"


def smaller(ratio: float) -> str:
    """A ratio of sizes in words, the original's over that of another file.

    >>> smaller(3.741), smaller(0.5)
    ('3.74x smaller', '2.00x larger')
    """
    return f"{ratio:.2f}x smaller" if ratio >= 1 or not ratio else f"{1 / ratio:.2f}x larger"


def speed(ratio: float, interval: Interval | None) -> str:
    """A ratio of speeds; with the interval that it lies in where that is not narrow, and a mark where it is not known.

    >>> speed(1.2, Interval(1.19, 1.21)), speed(1.2, Interval(0.9, 1.5)), speed(1.2, None)
    ('1.20x', '1.20x (0.90 to 1.50)', '1.20x ?')
    """
    if interval is None:
        return f"{ratio:.2f}x ?"
    return f"{ratio:.2f}x" + ("" if interval.is_narrow else f" ({interval.low:.2f} to {interval.high:.2f})")


def figure(value: float | str | None) -> str:
    """A number with few digits, grouped where it is whole; words as they are.

    >>> figure(65536), figure(0.000123456), figure(None)
    ('65 536', '0.0001235', '')
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return f"{value:.4g}" if math.isfinite(value) else decibels(value)
