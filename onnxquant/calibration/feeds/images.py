"""Samples from images, resized and scaled by the steps of a description.

Every pixel becomes ``(pixel * scale - mean) / std``, computed in float64 and rounded to the input's type.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.base import DTYPES, Assumption, Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.image_guess import RECORDED, ImageGuess, guess
from onnxquant.calibration.feeds.image_steps import FIT, MODES, VALUES, ImageSteps, canonical, image_steps, numeric
from onnxquant.calibration.feeds.labelled_files import LabelledFiles
from onnxquant.calibration.feeds.presets import IMAGES, PRESETS, names
from onnxquant.calibration.feeds.resize import Size, resized
from onnxquant.calibration.feeds.settings import number, numbers, option_of
from onnxquant.errors import FeedError, nearest

if TYPE_CHECKING:
    from PIL import Image

# Formats that Pillow names, and opens only with other programs or not at all.
_UNREADABLE = ("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF")
_USUAL = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Files of a folder that are looked at before any is read, and the mark within the last bytes of a whole JPEG.
_CHECKED, _JPEG_TAIL, _JPEG_END = 1024, 1 << 16, b"\xff\xd9"
# Pixels of 16 bits and floats: Pillow would clip them to 255.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def endings() -> frozenset[str]:
    """Endings of files that are read as images: all that Pillow opens, or the usual ones where it is missing."""
    if importlib.util.find_spec("PIL") is None:
        return frozenset(_USUAL)
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(e for e, form in known.items() if form in Image.OPEN and form not in _UNREADABLE)


@dataclass(frozen=True)
class Pixels:
    """Makes the tensor of an image.

    Attributes:
        spec: the input.
        steps: complete steps.
        size: size that images are brought to; None: they keep their own.
        origin: the steps and what they follow from, for reports.
    """

    spec: Input
    steps: ImageSteps
    size: Size | None
    origin: SampleOrigin

    def __call__(self, image: Image.Image, where: str) -> NDArray[Any]:
        """The tensor.

        Args:
            image: the image, in any mode.
            where: its place, for messages.

        Raises:
            FeedError: it cannot be decoded, or its values do not fit the input.
        """
        steps = self.steps
        upright = decoded(image, steps.order or "RGB", where)
        pixels = resized(upright, self.size, steps, where).astype(np.float64)
        if steps.order == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.asarray(numbers("mean", steps.mean)), np.asarray(numbers("std", steps.std))
        values = (pixels * (1.0 if steps.scale is None else number("scale", steps.scale)) - mean) / std
        if steps.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        dtype = np.dtype(steps.dtype or "float32")
        if dtype.kind in "iu":
            values = np.rint(values)
            limits = np.iinfo(dtype)
            if values.min() < limits.min or values.max() > limits.max:
                raise FeedError(
                    f"{where}: values {values.min():g} to {values.max():g} do not fit {dtype}; look at scale, mean, std"
                )
        values = np.ascontiguousarray(values.astype(dtype))
        return values[None] if len(self.spec.shape) == 4 else values


def images(
    path: Path, files: Sequence[Path], inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts
) -> LabelledFiles:
    """Files of images as samples; steps that the description leaves open follow from the model.

    Args:
        path: the file or the folder, for messages.
        files: the files.
        inputs: inputs of the model.
        values: values of the description.
        facts: facts about the model.

    Raises:
        FeedError: Pillow is missing, no input is an image, or the size stays open and the images differ.
    """
    if importlib.util.find_spec("PIL") is None:
        raise FeedError(f"{path}: reading images needs Pillow: pip install 'onnxquant[images]'")
    for file in files[:_CHECKED]:
        _check_whole(file)
    pixels = pixels_of(str(path), inputs, values, facts, lambda: _sizes(files))

    def tensors(file: Path) -> Raw:
        with _opened(file) as image:
            return {pixels.spec.name: pixels(image, str(file))}

    return LabelledFiles(path, files, pixels.origin, tensors)


def pixels_of(
    where: str,
    inputs: Sequence[Input],
    values: Mapping[str, Any],
    facts: ModelFacts,
    sizes: Callable[[], Iterable[tuple[str, tuple[int, int]]]],
) -> Pixels:
    """The steps from images to the input of a model, complete.

    Args:
        where: place of the images, for messages.
        inputs: inputs of the model.
        values: values of the description.
        facts: facts about the model.
        sizes: names of the images, with width and height.

    Raises:
        FeedError: no input is an image, or the size stays open and the images differ.
    """
    spec = _image_input(where, inputs, image_steps(values))
    assumed: list[str] = []
    guessed = _guessed(spec, values, facts)
    preset = PRESETS.get(str(values.get("preset") or (guessed.preset if guessed else "")))
    known = canonical(values)
    steps = _completed(image_steps({**_open_steps(known, guessed), **known}), spec, assumed)
    channels = 1 if steps.order == "GRAY" else 3
    if channels == 1 and guessed:  # one mean for each channel is no mean of gray
        steps = replace(steps, mean=_gray(steps.mean), std=_gray(steps.std))
    for key in ("mean", "std"):
        if len(numbers(key, getattr(steps, key)) or ()) not in (1, channels):
            raise FeedError(f"preprocess: {key} is {getattr(steps, key)!r}, expected 1 or {channels} numbers")
    size = _size(sizes, spec, steps, (preset.size if preset else None), assumed)
    if size and None not in size and steps.resize is None:
        steps = replace(steps, resize="crop")
        assumed.append("resize=crop")
    preprocess = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(steps).items() if v is not None}
    if size and None not in size:
        preprocess["size"] = list(size)
    is_known = "preset" in values or any(k in known for k in VALUES) or np.dtype(steps.dtype).kind != "f"
    reason = _reason(guessed, is_known=is_known)
    origin = SampleOrigin(
        kind=IMAGES, preprocess=preprocess, assumed=tuple(assumed), reason=reason,
        assumption=_assumption(guessed, values, is_known=is_known),
    )  # fmt: skip
    return Pixels(spec, steps, size, origin)


def _reason(guessed: ImageGuess | None, *, is_known: bool) -> str | None:
    """The origin of the values of pixels; None where they are known."""
    if guessed is not None and guessed.reason == RECORDED:
        return RECORDED
    if is_known:
        return None
    if guessed is None:
        known = ", ".join(names(IMAGES))
        return f"ASSUMED, as nothing tells which values the model takes: give --preprocess {known} or steps"
    preset = f" (--preprocess {guessed.preset})" if guessed.preset else ""
    return f"guessed{preset}: {guessed.reason}; --preprocess overrides it"


def _assumption(guessed: ImageGuess | None, values: Mapping[str, Any], *, is_known: bool) -> Assumption | None:
    """The values of pixels that nothing tells for certain; None where they are known."""
    if guessed is not None and guessed.reason == RECORDED:
        return guessed.assumption
    if is_known or (guessed is not None and guessed.is_certain):
        return None
    if guessed is None:
        return Assumption("pixels from 0 to 1", option_of({**values, "scale": "1/255"}))
    what = f"images as preset {guessed.preset} prepares them"
    return Assumption(what, option_of({"preset": guessed.preset, **values}), is_guess=True)


def _gray(value: Any) -> Any:  # noqa: ANN401 - a number or several, as descriptions hold them
    return float(np.mean(value)) if isinstance(value, (list, tuple)) else value


def _guessed(spec: Input, values: Mapping[str, Any], facts: ModelFacts) -> ImageGuess | None:
    """The guess about an input of floats, or the record about any, where the values of pixels are not given."""
    known = canonical(values)
    is_open = "preset" not in values and not any(key in known for key in VALUES)
    guessed = guess(spec, facts) if is_open else None
    is_float = np.dtype(DTYPES[spec.element]).kind == "f"
    return guessed if guessed is None or is_float or guessed.reason == RECORDED else None


def _open_steps(known: Mapping[str, Any], guessed: ImageGuess | None) -> dict[str, Any]:
    """Guessed steps that the description leaves open."""
    is_fit_known = any(key in known for key in FIT)
    return {k: v for k, v in (guessed.steps if guessed else {}).items() if k not in FIT or not is_fit_known}


def _image_input(where: str, inputs: Sequence[Input], steps: ImageSteps) -> Input:
    names = [i.name for i in inputs]
    if steps.input is not None and steps.input not in names:
        raise FeedError(f"preprocess: the model has no input {steps.input!r}{nearest(str(steps.input), names)}")
    fitting = [i for i in inputs if len(i.shape) in (3, 4) and DTYPES.get(i.element) in numeric()]
    chosen = [i for i in fitting if steps.input in (None, i.name)]
    if len(chosen) != 1:
        which = (
            "several inputs may be images: give input=NAME"
            if chosen
            else "no input is an image (3 or 4 axes of numbers)"
        )
        raise FeedError(f"{where}: {which}; {expected(inputs)}")
    return chosen[0]


def _completed(steps: ImageSteps, spec: Input, assumed: list[str]) -> ImageSteps:
    """The steps, with layout, colour order, type and scale of the input where they are open.

    Args:
        steps: the steps of the description.
        spec: the input.
        assumed: list that the chosen values are added to.
    """
    defaults: dict[str, Any] = {}
    first, last = spec.shape[-3], spec.shape[-1]
    layout = steps.layout or _layout(spec, first, last)
    if steps.layout is None:
        defaults["layout"] = layout
    channels = first if layout == "NCHW" else last
    if isinstance(channels, int) and channels > 0 and channels not in (1, 3):
        raise FeedError(f"input {spec.name!r} has {channels} channels in layout {layout}, expected 1 or 3: {spec}")
    if steps.order is None:
        defaults["order"] = "GRAY" if channels == 1 else "RGB"
    if steps.dtype is None:
        defaults["dtype"] = np.dtype(DTYPES[spec.element]).name
    if steps.scale is None:
        defaults["scale"] = 1 / 255 if np.dtype(DTYPES[spec.element]).kind == "f" else 1.0
    assumed += [f"{k}={'1/255' if v == 1 / 255 else v}" for k, v in defaults.items()]
    return replace(steps, **defaults)


def _layout(spec: Input, first: int | str | None, last: int | str | None) -> str:
    ways = [name for name, channels in (("NCHW", first), ("NHWC", last)) if channels in (1, 3)]
    if len(ways) == 1:
        return ways[0]
    if not ways and not (isinstance(first, int) and first > 0):
        return "NCHW"
    raise FeedError(f"input {spec.name!r} does not show its layout: give layout=NCHW or layout=NHWC; {spec}")


def _size(
    sizes: Callable[[], Iterable[tuple[str, tuple[int, int]]]],
    spec: Input,
    steps: ImageSteps,
    usual: int | None,
    assumed: list[str],
) -> Size | None:
    """The size that images are brought to; None: they keep their own.

    Args:
        sizes: names of the images, with width and height.
        spec: the input.
        steps: the steps.
        usual: height and width of the preset, where the input leaves both open.
        assumed: list that the size is added to.
    """
    if steps.resize == "none":
        return None
    if size := steps.height_width():
        return size
    axes = spec.shape[-2:] if steps.layout == "NCHW" else spec.shape[-3:-1]
    height, width = (d if isinstance(d, int) and d > 0 else None for d in axes)
    if usual and not height and not width:
        height = width = usual
    if height or width:
        open_axis = "" if height and width else ", the other side by the image's proportions"
        assumed.append(f"size={height or 'open'}x{width or 'open'}{open_axis}")
        return height, width
    first: dict[tuple[int, int], str] = {}
    for name, image_size in sizes():
        first.setdefault(image_size, name)
        if len(first) > 1:
            (a, one), (b, other) = first.items()
            raise FeedError(
                f"images differ in size ({one} {a[1]}x{a[0]}, {other} {b[1]}x{b[0]}) and input {spec} leaves it "
                f"open: give size=HEIGHTxWIDTH, or resize=none to feed each as it is"
            )
    assumed.append("resize=none")
    return None


def _sizes(files: Sequence[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, and width and height of each image, upright."""
    for file in files:
        with _opened(file) as image:
            yield file.name, decoded(image, None, str(file)).size


def _opened(file: Path) -> Image.Image:
    """An image that is not decoded yet."""
    from PIL import Image

    try:
        return Image.open(file)
    except Exception as error:  # UnidentifiedImageError, DecompressionBombError ...: any kind of damage
        raise FeedError(f"{file}: cannot be read as an image: {error}") from None


def decoded(image: Image.Image, order: str | None, where: str) -> Image.Image:
    """An upright image; in the channels of a colour order, unless that is None.

    Raises:
        FeedError: it is damaged, or has more than 8 bits per channel.
    """
    from PIL import ImageOps

    try:
        if image.mode in _DEEP:
            raise FeedError(f"{where}: has pixels of mode {image.mode}, expected 8 bits per channel")
        upright = ImageOps.exif_transpose(image)
        return upright.convert(MODES[order]) if order else upright
    except FeedError:
        raise
    except Exception as error:  # struct.error, OSError ...: any kind of damage
        raise FeedError(f"{where}: cannot be read as an image: {error}") from None


def _check_whole(file: Path) -> None:
    """Refuse a damaged file, without decoding it: so every mode refuses it, whichever samples it reads."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            is_jpeg = image.format == "JPEG"
            image.verify()
    except Exception as error:  # any kind of damage
        raise FeedError(f"{file}: cannot be read as an image: {error}") from None
    if is_jpeg:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _JPEG_TAIL))
            if _JPEG_END not in opened.read():
                raise FeedError(f"{file}: cannot be read as an image: it ends early")
