"""Calibrating reads its samples one at a time, from any source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import onnxquant
from onnxquant.errors import FeedError
from onnxquant.observers.base import ActivationGrid


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def test_ranges_from_images_equal_those_of_their_arrays(images: Path, default_model: Path) -> None:
    preprocess = "resize=stretch,resample=nearest,mean=0.5,std=0.25"
    statistics = onnxquant.calibrate(default_model, images, methods=("minmax",), preprocess=preprocess)
    arrays = [
        (np.asarray(Image.open(f).resize((28, 28), Image.Resampling.NEAREST), np.float64) / 255 - 0.5) / 0.25
        for f in sorted(images.iterdir())
    ]
    name = ort.InferenceSession(default_model).get_inputs()[0].name
    low, high = statistics.range(name, "minmax", ActivationGrid())
    assert low == pytest.approx(min(a.min() for a in arrays)) and high == pytest.approx(max(a.max() for a in arrays))
    assert statistics.samples == 6 and statistics.sources[0].preprocess["mean"] == 0.5


def test_one_sample_is_in_memory_at_a_time(default_model: Path) -> None:
    alive = most = 0

    class Tracked(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def samples() -> Iterator[dict[str, Any]]:
        nonlocal alive, most
        for i in range(20):
            alive += 1
            most = max(most, alive)
            yield {"image": np.full((1, 1, 28, 28), i / 20, np.float32).view(Tracked)}

    onnxquant.calibrate(default_model, samples, methods=("minmax",))
    assert 1 <= most <= 4


def test_bad_samples_are_refused_before_the_run(images: Path, default_model: Path) -> None:
    with pytest.raises(FeedError, match=r"shape \[1, 1, 40, 30\], expected"):
        onnxquant.calibrate(default_model, images, preprocess="resize=none")
