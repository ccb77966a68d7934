"""Log-mel spectrograms as Whisper takes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Samples of a window and between two of them, at 16000 a second.
_WINDOW, _HOP = 400, 160
# The scale of Slaney: linear below this frequency, logarithmic above it.
_BREAK_HZ, _BREAK_MEL, _HZ_PER_MEL, _STEP = 1000.0, 15.0, 200 / 3, np.log(6.4) / 27
_FLOOR, _RANGE = 1e-10, 8.0


def log_mel(wave: NDArray[np.float64], rate: int, bands: int) -> NDArray[np.float64]:
    """The spectrogram of a waveform: a row for each band, a column for each hop.

    Args:
        wave: the waveform.
        rate: samples per second.
        bands: number of bands.
    """
    window = np.hanning(_WINDOW + 1)[:-1]
    padded = np.pad(wave, _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(wave) // _HOP]
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    levels = np.log10(np.maximum(filters(rate, bands) @ power.T, _FLOOR))
    return np.asarray((np.maximum(levels, levels.max() - _RANGE) + 4) / 4, np.float64)


def filters(rate: int, bands: int) -> NDArray[np.float64]:
    """Triangles of equal area over the frequencies of a window, a row for each band."""
    edges = _hertz(np.linspace(0, _mel(rate / 2), bands + 2))
    frequencies = np.linspace(0, rate / 2, _WINDOW // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    areas = (edges[2:] - edges[:-2])[:, None] / 2
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) / areas, np.float64)


def _mel(hertz: float) -> float:
    if hertz < _BREAK_HZ:
        return hertz / _HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hertz / _BREAK_HZ) / _STEP)


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK_HZ * np.exp(_STEP * (mels - _BREAK_MEL))
    return np.asarray(np.where(mels < _BREAK_MEL, mels * _HZ_PER_MEL, above), np.float64)
