"""Samples from a folder of images, resized and scaled by the steps of a description.

Every pixel becomes ``(pixel * scale - mean) / std``, computed in float64 and rounded to the input's type.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.base import DTYPES, Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.settings import numbers, one_of
from onnxquant.errors import FeedError, nearest

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# Height and width; None follows from the other by the image's proportions.
Size = tuple[int | None, int | None]
_RESIZE = ["crop", "stretch", "pad", "none"]
_RESAMPLE = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_MODES = {"RGB": "RGB", "BGR": "RGB", "GRAY": "L"}
# Files of a folder that are looked at before any is read, and the mark within the last bytes of a whole JPEG.
_CHECKED, _JPEG_TAIL, _JPEG_END = 1024, 1 << 16, b"\xff\xd9"
# Pixels of 16 bits and floats: Pillow would clip them to 255.
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


@dataclass(frozen=True)
class ImageSteps:
    """The steps from an image to an input; those that are None follow from the input.

    Attributes:
        input: name of the input; needed where the model has several.
        size: height and width, or one number for both.
        resize: ``crop`` scales the image to cover the size and crops its centre, ``stretch`` ignores the proportions,
            ``pad`` fits the whole image in and fills the rest, ``none`` leaves it as it is.
        shorter: length of the shorter side before ``crop`` cuts; None: the smallest that covers the size.
        resample: ``nearest``, ``box``, ``bilinear``, ``hamming``, ``bicubic`` or ``lanczos``.
        pad_value: pixel value of the borders that ``pad`` adds.
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
    resample: str = "bilinear"
    pad_value: int = 0
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
        for key, value, choices in (
            ("resize", self.resize, _RESIZE), ("layout", self.layout, ["NCHW", "NHWC"]),
            ("order", self.order, list(_MODES)), ("dtype", self.dtype, [np.dtype(t).name for t in _numeric()]),
        ):  # fmt: skip
            if value is not None:
                one_of(key, value, choices)
        if self.shorter is not None and (type(self.shorter) is not int or self.shorter < 1):
            raise FeedError(f"preprocess: shorter is {self.shorter!r}, expected a number of pixels")
        if type(self.pad_value) is not int or not 0 <= self.pad_value <= 255:
            raise FeedError(f"preprocess: pad_value is {self.pad_value!r}, expected 0 to 255")
        for key in ("scale", "mean", "std"):
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


def _numeric() -> list[type[np.generic]]:
    return [t for t in DTYPES.values() if t not in (np.str_, np.bool_)]


@dataclass
class Images:
    """A folder of images, each a sample."""

    files: Sequence[Path]
    spec: Input
    steps: ImageSteps
    size: Size | None
    origin: SampleOrigin

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        for file in self.files:
            yield str(file), {self.spec.name: self._tensor(_opened(file, self.steps.order or "RGB"), file)}

    def _tensor(self, image: Image.Image, file: Path) -> NDArray[Any]:
        steps = self.steps
        pixels = np.asarray(_resized(image, self.size, steps, file), np.float64)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if steps.order == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.asarray(numbers("mean", steps.mean)), np.asarray(numbers("std", steps.std))
        values = (pixels * (1.0 if steps.scale is None else steps.scale) - mean) / std
        if steps.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        dtype = np.dtype(steps.dtype or "float32")
        if dtype.kind in "iu":
            values = np.rint(values)
            limits = np.iinfo(dtype)
            if values.min() < limits.min or values.max() > limits.max:
                raise FeedError(
                    f"{file}: values {values.min():g} to {values.max():g} do not fit {dtype}; look at scale, mean, std"
                )
        values = np.ascontiguousarray(values.astype(dtype))
        return values[None] if len(self.spec.shape) == 4 else values


def images(path: Path, files: Sequence[Path], inputs: Sequence[Input], steps: ImageSteps) -> Images:
    """The images of a folder as samples; steps that the description leaves open follow from the input.

    Raises:
        FeedError: Pillow is missing, no input is an image, or the size stays open and the images differ.
    """
    if importlib.util.find_spec("PIL") is None:
        raise FeedError(f"{path}: reading images needs Pillow: pip install 'onnxquant[images]'")
    for file in files[:_CHECKED]:
        _check_whole(file)
    spec = _image_input(path, inputs, steps)
    assumed: list[str] = []
    steps = _completed(steps, spec, assumed)
    channels = 1 if steps.order == "GRAY" else 3
    for key in ("mean", "std"):
        if len(numbers(key, getattr(steps, key)) or ()) not in (1, channels):
            raise FeedError(f"preprocess: {key} is {getattr(steps, key)!r}, expected 1 or {channels} numbers")
    size = _size(files, spec, steps, assumed)
    if size and None not in size and steps.resize is None:
        steps = replace(steps, resize="crop")
        assumed.append("resize=crop")
    preprocess = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(steps).items() if v is not None}
    return Images(files, spec, steps, size, SampleOrigin(kind="images", preprocess=preprocess, assumed=tuple(assumed)))


def _image_input(path: Path, inputs: Sequence[Input], steps: ImageSteps) -> Input:
    names = [i.name for i in inputs]
    if steps.input is not None and steps.input not in names:
        raise FeedError(f"preprocess: the model has no input {steps.input!r}{nearest(str(steps.input), names)}")
    fitting = [i for i in inputs if len(i.shape) in (3, 4) and DTYPES.get(i.element) in _numeric()]
    chosen = [i for i in fitting if steps.input in (None, i.name)]
    if len(chosen) != 1:
        which = (
            "several inputs may be images: give input=NAME"
            if chosen
            else "no input is an image (3 or 4 axes of numbers)"
        )
        raise FeedError(f"{path}: {which}; {expected(inputs)}")
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


def _size(files: Sequence[Path], spec: Input, steps: ImageSteps, assumed: list[str]) -> Size | None:
    """The size that images are brought to; None: they keep their own."""
    if steps.resize == "none":
        return None
    if size := steps.height_width():
        return size
    axes = spec.shape[-2:] if steps.layout == "NCHW" else spec.shape[-3:-1]
    height, width = (d if isinstance(d, int) and d > 0 else None for d in axes)
    if height or width:
        open_axis = "" if height and width else ", the other side by the image's proportions"
        assumed.append(f"size={height or 'open'}x{width or 'open'}{open_axis}")
        return height, width
    sizes: dict[tuple[int, int], Path] = {}
    for file in files:
        sizes.setdefault(_opened(file, None).size, file)
        if len(sizes) > 1:
            (a, one), (b, other) = sizes.items()
            raise FeedError(
                f"images differ in size ({one.name} {a[1]}x{a[0]}, {other.name} {b[1]}x{b[0]}) and input {spec} leaves it "
                f"open: give size=HEIGHTxWIDTH, or resize=none to feed each as it is"
            )
    assumed.append("resize=none")
    return None


def _opened(file: Path, order: str | None) -> Image.Image:
    """An upright image; decoded into the channels of a colour order, unless that is None."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.mode in _DEEP:
                raise FeedError(f"{file}: has pixels of mode {image.mode}, expected 8 bits per channel")
            upright = ImageOps.exif_transpose(image)
            return upright.convert(_MODES[order]) if order else upright
    except FeedError:
        raise
    except Exception as error:  # UnidentifiedImageError, DecompressionBombError, struct.error ...: any kind of damage
        raise FeedError(f"{file}: cannot be read as an image: {error}") from None


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


def _resized(image: Image.Image, size: Size | None, steps: ImageSteps, file: Path) -> Image.Image:
    """An image brought to a size."""
    from PIL import Image

    if size is None:
        return image
    height, width = size
    if height is None or width is None:
        factor = height / image.height if height else (width or 1) / image.width
        return _scaled(image, factor, (width or 1, height or 1), steps)
    resample = Image.Resampling[steps.resample.upper()]
    if steps.resize == "stretch":
        return image.resize((width, height), resample)
    factors = (width / image.width, height / image.height)
    if steps.resize == "pad":
        part = image.resize(
            (min(width, round(image.width * min(factors)) or 1), min(height, round(image.height * min(factors)) or 1)),
            resample,
        )
        whole = Image.new(image.mode, (width, height), (steps.pad_value,) * len(image.getbands()))
        whole.paste(part, ((width - part.width) // 2, (height - part.height) // 2))
        return whole
    factor = steps.shorter / min(image.size) if steps.shorter else max(factors)
    scaled = _scaled(image, factor, (width, height) if not steps.shorter else (1, 1), steps)
    if scaled.width < width or scaled.height < height:
        raise FeedError(
            f"{file}: is {scaled.height}x{scaled.width} with shorter={steps.shorter}, less than {height}x{width}"
        )
    left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
    return scaled.crop((left, top, left + width, top + height))


def _scaled(image: Image.Image, factor: float, least: tuple[int, int], steps: ImageSteps) -> Image.Image:
    """An image scaled by a factor.

    Args:
        image: the image.
        factor: factor of its width and height.
        least: smallest width and height of the result.
        steps: the steps, for the filter.
    """
    from PIL import Image

    size = (max(least[0], round(image.width * factor)), max(least[1], round(image.height * factor)))
    return image.resize(size, Image.Resampling[steps.resample.upper()])
