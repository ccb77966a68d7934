"""Samples that show what quantization costs, with what people see in them: answers that changed, and the worst samples."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds import Feed, SampleOrigin
from onnxquant.json_data import INLINE, OPTIONAL
from onnxquant.numerics.align import arrays_of, boxes_of
from onnxquant.numerics.anchors import boxes_of_anchors
from onnxquant.numerics.arrays import Array
from onnxquant.numerics.score import SampleQuality
from onnxquant.validation.reference import SampledOutputs

# Number of examples, and of the worst samples beside those whose answers changed.
_MOST, _WORST = 8, 3
# Pixels of the longer side of a picture, and of one with boxes on it.
_SIDE, _SIDE_OF_BOXES = 96, 224
_LONGEST_TEXT = 300
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Boxes:
    """Boxes of one sample, as parts of the picture's width and height: left, top, right, bottom."""

    original: list[Box]
    quantized: list[Box]


@dataclass(frozen=True)
class Example:
    """A sample that shows what quantization costs.

    Attributes:
        quality: its figures and answers.
        file: its file; None where it has none.
        picture: its image as PNG in base64; None where it has none.
        text: its text; None where it has none.
        boxes: boxes of both models on its image; None where there are none.
    """

    quality: SampleQuality = field(metadata=INLINE)
    file: str | None = field(default=None, metadata=OPTIONAL)
    picture: str | None = field(default=None, metadata=OPTIONAL)
    text: str | None = field(default=None, metadata=OPTIONAL)
    boxes: Boxes | None = field(default=None, metadata=OPTIONAL)


def examples(
    qualities: Sequence[SampleQuality], samples: SampledOutputs, outputs: Sequence[Mapping[str, Any]]
) -> list[Example]:
    """The samples whose answers changed, the worst first, and the worst of the others; none of made-up samples.

    Args:
        qualities: quality of each sample.
        samples: samples with the original's outputs.
        outputs: outputs of the quantized model.
    """
    if samples.origin.is_synthetic:
        return []
    order = sorted(qualities, key=lambda q: np.inf if q.sqnr_db is None else q.sqnr_db)
    changed = [q for q in order if q.changed]
    worst = [q for q in order if not q.changed and q.sqnr_db is not None and np.isfinite(q.sqnr_db)][:_WORST]
    return [_example(q, samples, outputs[q.sample]) for q in (changed[: _MOST - len(worst)] + worst)]


def _example(quality: SampleQuality, samples: SampledOutputs, outputs: Mapping[str, Any]) -> Example:
    feed, files = samples.feeds[quality.sample], samples.origin.files or ()
    example = Example(quality, file=files[quality.sample] if quality.sample < len(files) else None)
    if (pixels := _pixels(feed, samples.origin)) is None:
        return replace(example, text=_text(feed, samples.origin))
    height, width = pixels.shape[:2]
    boxes = _boxes(samples.outputs[quality.sample], outputs, width, height)
    side = _SIDE if boxes is None else _SIDE_OF_BOXES
    return replace(example, boxes=boxes, picture=base64.b64encode(png(_smaller(pixels, side))).decode())


def _pixels(feed: Feed, origin: SampleOrigin) -> NDArray[np.uint8] | None:
    """The first image of a sample [height, width, channels], from its lowest value to its highest; None where it has none."""
    for array in feed.values():
        if not isinstance(array, np.ndarray) or array.ndim != 4 or array.dtype.kind not in "fu" or not array.size:
            continue
        image = array[0]
        if image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
            image = image.transpose(1, 2, 0)
        if image.shape[2] not in (1, 3) or min(image.shape[:2]) < 2 or not np.isfinite(image).all():
            continue
        if (origin.preprocess or {}).get("order") == "BGR":
            image = image[:, :, ::-1]
        low, high = (float(v) for v in (image.min(), image.max()))
        pixels: NDArray[np.uint8] = np.rint((image - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
        return pixels
    return None


def _smaller(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image whose longer side has at most so many pixels, each the mean of a block."""
    step = -(-max(pixels.shape[:2]) // side)
    height, width = (max(n // step, 1) * min(step, n) for n in pixels.shape[:2])
    steps = [min(step, n) for n in pixels.shape[:2]]
    blocks = pixels[:height, :width].reshape(height // steps[0], steps[0], width // steps[1], steps[1], -1)
    return np.asarray(blocks.mean((1, 3)).round().astype(np.uint8))


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image [height, width, 1 or 3 channels] as PNG."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _boxes(original: Mapping[str, Any], quantized: Mapping[str, Any], width: int, height: int) -> Boxes | None:
    """Boxes of both models; None where the outputs are none."""
    sides = [arrays_of(outputs) for outputs in (original, quantized)]
    known = boxes_of(sides[0], sides[1]) or [c for side in sides if (c := boxes_of_anchors(side)) is not None]
    if len(known) < len(sides):
        return None
    largest = max((float(np.abs(c).max()) for c in known if c.size), default=1.0)
    scale = np.array([1.0, 1.0, 1.0, 1.0] if largest <= 2.0 else [width, height, width, height])
    return Boxes(*([_box(row) for row in c / scale] for c in known))


def _box(row: Array) -> Box:
    left, top, right, bottom = (round(float(np.clip(v, 0, 1)), 4) for v in row)
    return left, top, right, bottom


def _text(feed: Feed, origin: SampleOrigin) -> str | None:
    """The text of a sample: a string, or tokens as their tokenizer reads them; None where it has none."""
    for name, array in feed.items():
        if not isinstance(array, np.ndarray) or not array.size:
            continue
        if array.dtype.kind in "OU":
            return str(array.reshape(-1)[0])[:_LONGEST_TEXT]
        path = Path(origin.tokenizer or "")
        if array.dtype.kind == "i" and "mask" not in name and "type" not in name and path.suffix == ".json":
            return _decoded(array.reshape(-1), path)
    return None


def _decoded(ids: NDArray[np.integer[Any]], tokenizer: Path) -> str | None:
    """The text of tokens; None where the tokenizer cannot be read here."""
    if find_spec("tokenizers") is None or not tokenizer.is_file():
        return None
    import tokenizers

    try:
        text = tokenizers.Tokenizer.from_file(str(tokenizer)).decode([int(i) for i in ids])
    except Exception:  # the library raises nothing narrower
        return None
    return str(text)[:_LONGEST_TEXT]
