"""A guess of the steps from images to the input of a model, from its files, metadata, first layers, names and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxquant.calibration.feeds.base import Assumption, Input
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.presets import IMAGES, PRESETS

RECORDED = "as the file records"
# Filters of Pillow by their numbers.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Classes of ImageNet, without and with one for the background.
_IMAGENET_CLASSES, _WITH_BACKGROUND = 1000, 1001
# Sides of the images of classifiers and of detectors.
_CLASSIFIERS, _LEAST_DETECTOR = range(128, 513), 256
# Scale, mean and std by the ranges that Windows ML names.
_RANGES = {
    "NominalRange_0_255": (1.0, 0.0, 1.0), "Normalized_0_1": (1 / 255, 0.0, 1.0), "Normalized_1_1": (1 / 255, 0.5, 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class ImageGuess:
    """Steps that a model seems to expect.

    Attributes:
        steps: values by key.
        reason: the facts that they follow from.
        preset: name of the preset that they are; empty: they are none.
        is_certain: whether the facts leave no doubt.
        assumption: part of recorded steps that nobody has confirmed.
    """

    steps: Mapping[str, Any]
    reason: str
    preset: str = ""
    is_certain: bool = True
    assumption: Assumption | None = None


def guess(spec: Input, facts: ModelFacts) -> ImageGuess | None:
    """The steps that an input seems to expect; None where nothing tells."""
    for look in (_from_record, _from_files, _from_metadata, _from_first_layers, _from_names):
        if steps := look(spec, facts):
            return steps
    return None


def _preset(name: str, reason: str, *, is_certain: bool = False) -> ImageGuess:
    return ImageGuess(PRESETS[name].steps, reason, name, is_certain)


def _from_record(spec: Input, facts: ModelFacts) -> ImageGuess | None:
    record = facts.recorded
    if record is None or record.kind != IMAGES or not record.preprocess:
        return None
    return ImageGuess(record.preprocess, RECORDED, assumption=record.assumption)


def _from_files(spec: Input, facts: ModelFacts) -> ImageGuess | None:
    """Steps of a ``preprocessor_config.json`` as transformers writes it, or of timm's ``config.json``."""
    for name, read in (("preprocessor_config.json", _of_transformers), ("config.json", _of_timm)):
        table = facts.table(name)
        if table and (steps := read(table[0])):
            return ImageGuess(steps, f"{table[1]} says so")
    return None


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    if not any(key in config for key in ("do_rescale", "do_normalize", "image_mean")):
        return {}
    size, crop = _sides(config.get("size")), _sides(config.get("crop_size"))
    shortest = config["size"].get("shortest_edge") if isinstance(config.get("size"), dict) else None
    steps: dict[str, Any] = {"scale": 1.0, "mean": 0.0, "std": 1.0}
    if config.get("do_rescale", True):
        steps["scale"] = float(config.get("rescale_factor", 1 / 255))
    if config.get("do_normalize", True) and config.get("image_mean") and config.get("image_std"):
        steps |= {"mean": tuple(config["image_mean"]), "std": tuple(config["image_std"])}
    if config.get("do_flip_channel_order"):
        steps["order"] = "BGR"
    if isinstance(config.get("resample"), int) and 0 <= config["resample"] < len(_FILTERS):
        steps["resample"] = _FILTERS[config["resample"]]
    if config.get("do_center_crop") and crop:
        steps |= {"resize": "crop", "size": crop, **({"shorter": int(shortest)} if shortest else {})}
    elif shortest:
        part = float(config.get("crop_pct") or 1.0)
        steps |= {"resize": "crop", "size": [int(shortest)] * 2, "crop_pct": part}
    elif size and config.get("do_resize", True):
        steps |= {"resize": "stretch", "size": size}
    return steps


def _sides(size: object) -> list[int] | None:
    """Height and width in a configuration of transformers."""
    if isinstance(size, dict) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        return [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else None


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    trained = config.get("pretrained_cfg")
    if not isinstance(trained, dict) or not trained.get("mean") or not trained.get("std"):
        return {}
    steps: dict[str, Any] = {"scale": 1 / 255, "mean": tuple(trained["mean"]), "std": tuple(trained["std"])}
    if trained.get("interpolation") in _FILTERS:
        steps["resample"] = trained["interpolation"]
    return {**steps, "resize": "crop", "crop_pct": float(trained.get("crop_pct") or 0.875)}


def _from_metadata(spec: Input, facts: ModelFacts) -> ImageGuess | None:
    """Steps that follow from entries which exporters write into the model."""
    entries = facts.metadata
    if entries.get("author") == "Ultralytics" or {"stride", "task", "imgsz"} <= entries.keys():
        if entries.get("task") == "classify":
            return ImageGuess(
                {"resize": "crop", "scale": 1 / 255, "mean": 0.0, "std": 1.0}, "its metadata are of an ultralytics classifier"
            )
        return _preset("yolo", "its metadata are of ultralytics", is_certain=True)
    if pixels := _RANGES.get(entries.get("Image.NominalPixelRange", "")):
        order = {"order": "BGR"} if entries.get("Image.BitmapPixelFormat", "").startswith("Bgr") else {}
        return ImageGuess({**dict(zip(("scale", "mean", "std"), pixels, strict=True)), **order}, "its metadata say so")
    return _preset("ocr", "its metadata hold characters") if "character" in entries and _is_line(spec) else None


def _from_first_layers(spec: Input, facts: ModelFacts) -> ImageGuess | None:
    largest = facts.largest_pixel.get(spec.name)
    if largest is None:
        return None
    does = "its first layers subtract a mean or divide themselves"
    return ImageGuess({"scale": largest / 255, "mean": 0.0, "std": 1.0}, f"{does}, and take 0 to {largest}")


def _from_names(spec: Input, facts: ModelFacts) -> ImageGuess | None:
    """Steps that follow from names and sizes."""
    sides = [side for side in spec.shape[-3:] if isinstance(side, int) and side > 4]
    is_open = not sides
    is_square = len(sides) == 2 and sides[0] == sides[1]
    outputs, classes = facts.outputs, set(facts.outputs.values())
    if _is_line(spec):
        return _preset("ocr", f"images of {sides[0]} pixels in height are lines of text")
    if any("image_embeds" in name for name in outputs) or (spec.name == "pixel_values" and "text_embeds" in outputs):
        return _preset("clip", "it gives image_embeds")
    if spec.name == "images" and "output0" in outputs and (is_open or (is_square and sides[0] >= _LEAST_DETECTOR)):
        return _preset("yolo", "ultralytics calls inputs images and outputs output0")
    if not is_open and not (is_square and sides[0] in _CLASSIFIERS):
        return None
    if _WITH_BACKGROUND in classes:
        return _preset("minus1to1", f"{_WITH_BACKGROUND} classes are TensorFlow's")
    if _IMAGENET_CLASSES in classes:
        return _preset("imagenet", f"{_IMAGENET_CLASSES} classes are ImageNet's")
    if spec.name == "pixel_values":
        return _preset("siglip", "most models of transformers whose input is called pixel_values take -1 to 1")
    return None


def _is_line(spec: Input) -> bool:
    """Whether an input is a line of text: low, and open or long in width."""
    if len(spec.shape) != 4 or spec.shape[1] != 3:
        return False
    height, width = spec.shape[2:]
    is_long = not isinstance(width, int) or width < 1 or (isinstance(height, int) and width >= 3 * height)
    return height in (32, 48) and is_long
