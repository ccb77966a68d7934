"""Images brought to the size of an input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.image_steps import LINEAR, ImageSteps
from onnxquant.calibration.feeds.settings import number
from onnxquant.errors import FeedError

if TYPE_CHECKING:
    from PIL import Image

# Height and width; None follows from the other by the image's proportions.
Size = tuple[int | None, int | None]


def resized(image: Image.Image, size: Size | None, steps: ImageSteps, where: str) -> NDArray[Any]:
    """The pixels of an image brought to a size, with an axis for channels.

    Args:
        image: the image.
        size: height and width; None: it keeps its own.
        steps: the steps, for the way and the filter.
        where: place of the image, for messages.

    Raises:
        FeedError: the image is smaller than its crop.
    """
    if size is None:
        return _channels(np.asarray(image))
    height, width = size
    if height is None or width is None:
        factor = height / image.height if height else (width or 1) / image.width
        return _scaled(image, (height or _rounded(image.height * factor), width or _rounded(image.width * factor)), steps)
    if steps.resize == "stretch":
        return _scaled(image, (height, width), steps)
    if steps.resize == "pad":
        return _padded(image, (height, width), steps)
    return _cropped(image, (height, width), steps, where)


def _cropped(image: Image.Image, size: tuple[int, int], steps: ImageSteps, where: str) -> NDArray[Any]:
    """The centre of an image that is scaled to cover a size; rounded as torchvision does."""
    height, width = size
    part = number("crop_pct", steps.crop_pct) if steps.crop_pct else 1.0
    shorter = steps.shorter or (int(height / part) if steps.crop_pct and height == width else None)
    if shorter:
        low, high = sorted(image.size)
        scaled_size = (shorter, int(shorter * high / low))
        inner = _scaled(image, scaled_size[::-1] if image.height > image.width else scaled_size, steps)
    else:
        factor = max(width / image.width, height / image.height)
        sides = (max(height, round(image.height * factor / part)), max(width, round(image.width * factor / part)))
        inner = _scaled(image, sides, steps)
    if inner.shape[0] < height or inner.shape[1] < width:
        raise FeedError(
            f"{where}: is {inner.shape[0]}x{inner.shape[1]} with shorter={shorter}, less than {height}x{width}"
        )
    top, left = round((inner.shape[0] - height) / 2), round((inner.shape[1] - width) / 2)
    return inner[top : top + height, left : left + width]


def _padded(image: Image.Image, size: tuple[int, int], steps: ImageSteps) -> NDArray[Any]:
    """An image scaled to fit into a size, with borders around it."""
    height, width = size
    factor = min(width / image.width, height / image.height)
    rounded = _rounded if steps.align == "center" else math.ceil
    sides = (min(height, rounded(image.height * factor)), min(width, rounded(image.width * factor)))
    inner = _scaled(image, sides, steps)
    whole = np.full((height, width, inner.shape[2]), number("pad_value", steps.pad_value))
    top, left = ((height - sides[0]) // 2, (width - sides[1]) // 2) if steps.align == "center" else (0, 0)
    whole[top : top + sides[0], left : left + sides[1]] = inner
    return whole


def _rounded(length: float) -> int:
    return round(length) or 1


def _scaled(image: Image.Image, sides: tuple[int, int], steps: ImageSteps) -> NDArray[Any]:
    """The pixels of an image scaled to a height and a width."""
    from PIL import Image

    height, width = sides
    if steps.resample == LINEAR:
        return _linear(_channels(np.asarray(image)), height, width)
    return _channels(np.asarray(image.resize((width, height), Image.Resampling[steps.resample.upper()])))


def _channels(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _linear(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Pixels between the two nearest ones of each axis: OpenCV's INTER_LINEAR, in its numbers of fixed point."""
    above, below, upper, lower = _neighbours(pixels.shape[0], height)
    left, right, first, second = _neighbours(pixels.shape[1], width)
    whole = pixels.astype(np.int64)
    across = (whole[:, left] * first[:, None] + whole[:, right] * second[:, None]) >> 4
    sums = (across[above] * upper[:, None, None] >> 16) + (across[below] * lower[:, None, None] >> 16)
    return ((sums + 2) >> 2).clip(0, 255).astype(np.uint8)


def _neighbours(length: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the two neighbours of each new pixel along an axis, and their parts of 2048."""
    places = ((np.arange(new) + 0.5) * (length / new) - 0.5).clip(0, length - 1)
    first = np.floor(places).astype(np.intp)
    parts = np.rint((places - first) * 2048).astype(np.int64)
    return first, np.minimum(first + 1, length - 1), 2048 - parts, parts
