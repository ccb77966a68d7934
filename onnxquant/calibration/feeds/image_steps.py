"""The steps from an image to an input, as a description gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxquant.calibration.feeds import presets
from onnxquant.calibration.feeds.base import DTYPES
from onnxquant.calibration.feeds.settings import described, number, numbers, one_of
from onnxquant.errors import FeedError

_RESIZE = ["crop", "stretch", "pad", "none"]
LINEAR = "linear"
_RESAMPLE = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", LINEAR]
MODES = {"RGB": "RGB", "BGR": "RGB", "GRAY": "L"}
# Other words for the keys and their values.
_KEYS = {"fit": "resize", "pad": "pad_value"}
_FITS = {"letterbox": "pad", "center": "crop"}
# Keys that say which values pixels become, and keys that say how an image is brought to its size.
VALUES, FIT = ("scale", "mean", "std"), ("resize", "shorter", "crop_pct", "pad_value", "align")


@dataclass(frozen=True)
class ImageSteps:
    """The steps from an image to an input; those that are None follow from the input.

    Attributes:
        input: name of the input; needed where the model has several.
        size: height and width, or one number for both.
        resize: ``crop`` scales the image to cover the size and crops its centre, ``stretch`` ignores the proportions,
            ``pad`` fits the whole image in and fills the rest (a letterbox), ``none`` leaves it as it is.
        shorter: length of the shorter side before ``crop`` cuts; None: the smallest that covers the size.
        crop_pct: part of the shorter side that ``crop`` takes, as timm calls it; 0.875 stands for 224 of 256 pixels.
        resample: ``nearest``, ``box``, ``bilinear``, ``hamming``, ``bicubic`` or ``lanczos`` as in Pillow, which smooths what
            becomes smaller; ``linear`` as in OpenCV, which does not.
        pad_value: pixel value of the borders that ``pad`` adds.
        align: place of the image within the borders: ``center``, or ``start`` for the upper left corner.
        scale: factor of pixels (0 to 255).
        mean: number that is subtracted after scaling; one, or one for each channel in the model's order.
        std: divisor after the subtraction.
        layout: ``NCHW`` or ``NHWC``.
        order: ``RGB``, ``BGR`` or ``GRAY``.
        dtype: type of the values, such as ``uint8``.
    """

    input: str | None = None
    size: Any = None
    resize: str | None = None
    shorter: int | None = None
    crop_pct: float | None = None
    resample: str = "bilinear"
    pad_value: float = 0
    align: str = "center"
    scale: float | None = None
    mean: Any = 0.0
    std: Any = 1.0
    layout: str | None = None
    order: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Check the values that are wrong for any model.

        Raises:
            FeedError: a value of the wrong type or out of range.
        """
        one_of("resample", self.resample, _RESAMPLE)
        one_of("align", self.align, ["center", "start"])
        for key, value, choices in (
            ("resize", self.resize, _RESIZE), ("layout", self.layout, ["NCHW", "NHWC"]),
            ("order", self.order, list(MODES)), ("dtype", self.dtype, [np.dtype(t).name for t in numeric()]),
        ):  # fmt: skip
            if value is not None:
                one_of(key, value, choices)
        if self.shorter is not None and (type(self.shorter) is not int or self.shorter < 1):
            raise FeedError(f"preprocess: shorter is {self.shorter!r}, expected a number of pixels")
        if self.crop_pct is not None and not 0 < number("crop_pct", self.crop_pct) <= 1:
            raise FeedError(f"preprocess: crop_pct is {self.crop_pct!r}, expected a part such as 0.875")
        if not 0 <= number("pad_value", self.pad_value) <= 255:
            raise FeedError(f"preprocess: pad_value is {self.pad_value!r}, expected 0 to 255")
        for key in VALUES:
            numbers(key, getattr(self, key))
        if 0 in (numbers("std", self.std) or ()):
            raise FeedError("preprocess: std is 0, expected a divisor")
        self.height_width()

    def height_width(self) -> tuple[int, int] | None:
        """The size as two numbers; None where it is open."""
        size = self.size
        if isinstance(size, str):
            size = [int(n) if n.isdecimal() else n for n in size.lower().split("x")]
        pair = list(size) if isinstance(size, (list, tuple)) else [size, size]
        if size is None:
            return None
        if len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
            raise FeedError(f"preprocess: size is {self.size!r}, expected height and width, such as 224x224")
        return pair[0], pair[1]


def numeric() -> list[type[np.generic]]:
    """Types that pixels can have."""
    return [t for t in DTYPES.values() if t not in (np.str_, np.bool_)]


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a description by the keys of ``ImageSteps``, its preset carried out.

    >>> canonical({"preset": "yolo", "fit": "stretch"})["resize"]
    'stretch'
    """
    own = {_KEYS.get(key, key): value for key, value in values.items() if key not in ("preset", "crop")}
    if (crop := values.get("crop")) is not None:
        own["resize"] = "crop"
        own |= {} if crop == "center" else {"size": crop}
    fit = own.get("resize")
    if isinstance(fit, str):
        own["resize"] = _FITS.get(fit, fit)
    if "preset" not in values:
        return own
    steps = dict(presets.preset_named(values["preset"], presets.IMAGES).steps)
    if any(key in own for key in ("resize", "shorter", "crop_pct")):
        steps = {key: value for key, value in steps.items() if key not in FIT or key in ("pad_value", "align")}
    return {**steps, **own}


def image_steps(values: Mapping[str, Any]) -> ImageSteps:
    """The steps of a description.

    Raises:
        FeedError: an unknown preset or key (the nearest is named), or a value that does not fit.
    """
    return described(ImageSteps, canonical(values), presets.IMAGES)
