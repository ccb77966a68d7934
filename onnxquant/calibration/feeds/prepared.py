"""Sentences on how samples became the inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxquant.calibration.feeds.base import SampleOrigin
from onnxquant.calibration.feeds.presets import SOUND
from onnxquant.calibration.feeds.settings import numbers
from onnxquant.json_data import JsonValue

_FITS = {"stretch": "stretched", "pad": "letterbox", "none": "its own size", "crop": "centre crop"}


def preparation(origin: SampleOrigin) -> str | None:
    """The steps from samples to inputs, in full; None where samples are arrays.

    >>> preparation(SampleOrigin(kind="text", tokenizer="tokenizer.json"))
    'tokens of tokenizer.json'
    """
    if origin.kind == "images" and origin.preprocess:
        return f"{pixels(origin.preprocess)}{_reason(origin)}"
    if origin.kind == SOUND and origin.preprocess:
        return f"{_sound(origin.preprocess)}{_reason(origin)}"
    if origin.tokenizer:
        return f"tokens of {origin.tokenizer}{_reason(origin)}"
    return None


def _reason(origin: SampleOrigin) -> str:
    if origin.reason is None:
        return ""
    return f"; {origin.reason}"


def _sound(steps: Mapping[str, JsonValue]) -> str:
    length = f", {steps['length']} samples" if "length" in steps else ""
    normal = ", mean 0 and variance 1" if steps.get("normalize") else ""
    return f"{steps.get('features')} of mono at {steps.get('rate')} Hz{length}{normal}"


def pixels(steps: Mapping[str, JsonValue]) -> str:
    """The steps from an image to an input: layout, order, type, size, and the values that pixels become."""
    mean, std, scale = (numbers(key, steps.get(key)) or (0.0,) for key in ("mean", "std", "scale"))
    bounds = [(np.array(p * scale[0]) - np.array(mean)) / np.array(std) for p in (0, 255)]
    low, high = min(b.min() for b in bounds), max(b.max() for b in bounds)
    values = f"{low:.3g} to {high:.3g}"
    if any(mean) or set(std) != {1.0}:
        values += f" (pixel{_factor(scale[0])}, less mean {_listed(mean)}, over std {_listed(std)})"
    return f"{steps.get('order')} {steps.get('layout')} {steps.get('dtype')}, {_size(steps)}, values {values}"


def _size(steps: Mapping[str, JsonValue]) -> str:
    fit = str(steps.get("resize") or "")
    size = steps.get("size")
    text = "x".join(map(str, size)) if isinstance(size, list) else str(size or "")
    inner = f" of shorter side {steps['shorter']}" if steps.get("shorter") else ""
    inner = f" of {steps['crop_pct']:g}" if steps.get("crop_pct") not in (None, 1.0) else inner
    border = f" on {steps.get('pad_value')}" if fit == "pad" else ""
    way = f"{_FITS[fit]}{inner if fit == 'crop' else border}" if fit in _FITS else ""
    filter_ = "" if fit == "none" else str(steps.get("resample") or "")
    return ", ".join(part for part in (text, way, filter_) if part)


def _factor(scale: float) -> str:
    return "/255" if abs(scale * 255 - 1) < 1e-9 else "" if scale == 1 else f" x {scale:g}"


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))
