"""Presets of ``--preprocess``: the steps that well-known kinds of networks were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxquant.errors import FeedError, nearest

IMAGES, SOUND = "images", "sound"


@dataclass(frozen=True)
class Preset:
    """The steps of a kind of networks.

    Attributes:
        summary: networks that it is for.
        steps: values by key.
        size: height and width where the model leaves them open.
        kind: kind of samples.
    """

    summary: str
    steps: Mapping[str, Any]
    size: int | None = None
    kind: str = field(default=IMAGES)


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_HALF = {"mean": 0.5, "std": 0.5}
PRESETS: Mapping[str, Preset] = {
    "imagenet": Preset(
        "classifiers of torchvision and timm", {"resize": "crop", "crop_pct": 0.875, "scale": 1 / 255, **_IMAGENET}, 224
    ),
    "yolo": Preset(
        "detectors of ultralytics",
        {"resize": "pad", "pad_value": 114, "resample": "linear", "scale": 1 / 255, "mean": 0.0, "std": 1.0}, 640,
    ),
    "clip": Preset(
        "image encoders of CLIP", {"resize": "crop", "crop_pct": 1.0, "resample": "bicubic", "scale": 1 / 255, **_CLIP}, 224
    ),
    "siglip": Preset(
        "image encoders of SigLIP", {"resize": "stretch", "resample": "bicubic", "scale": 1 / 255, **_HALF}, 224
    ),
    "ocr": Preset(
        "text recognisers of PaddleOCR",
        {"order": "BGR", "resize": "pad", "align": "start", "pad_value": 127.5, "resample": "linear", "scale": 1 / 255,
         **_HALF},
    ),
    "minus1to1": Preset(
        "classifiers of TensorFlow: values from -1 to 1", {"resize": "crop", "scale": 1 / 255, **_HALF}, 224
    ),
    "whisper": Preset(
        "speech models of Whisper: log-mel spectrograms of 30 seconds", {"features": "log-mel", "rate": 16000}, kind=SOUND
    ),
    "wav2vec2": Preset(
        "speech models of wav2vec2: waveforms of mean 0 and variance 1",
        {"features": "wave", "rate": 16000, "normalize": True}, kind=SOUND,
    ),
}  # fmt: skip


def names(kind: str) -> list[str]:
    """Names of the presets for a kind of samples."""
    return [name for name, preset in PRESETS.items() if preset.kind == kind]


def preset_named(name: object, kind: str) -> Preset:
    """The preset of a name.

    Raises:
        FeedError: there is none for this kind of samples; the nearest is named.
    """
    known = names(kind)
    if name not in known:
        raise FeedError(f"preprocess: {kind} have no preset {name!r}{nearest(str(name), known)}")
    return PRESETS[str(name)]
