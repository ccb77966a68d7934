"""Samples that show what quantization costs: which are chosen, their pictures, their boxes and their texts."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import graphs
import numpy as np
import pytest
from PIL import Image

from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.json_data import from_json, to_json
from onnxquant.numerics.anchors import boxes_of_anchors
from onnxquant.numerics.score import Judge
from onnxquant.report import html
from onnxquant.report.report import Report
from onnxquant.validation.examples import Example, examples, png
from onnxquant.validation.proof import Proof
from onnxquant.validation.reference import SampledOutputs

COUNT, CHANGED, WORST = 12, 7, 3


def classified() -> tuple[SampledOutputs, list[dict[str, np.ndarray]]]:
    """Images of noise with ten classes; sample 7 has another top class, sample 3 the most noise beside it."""
    random = graphs.rng(0)
    feeds = [{"image": random.random((1, 3, 20, 30), np.float32)} for _ in range(COUNT)]
    logits = [np.eye(10, dtype=np.float32)[[i % 10]] * 9 for i in range(COUNT)]
    outputs = [a + 0.01 * random.standard_normal(a.shape).astype(np.float32) for a in logits]
    outputs[WORST] = logits[WORST] + 0.5
    outputs[CHANGED] = logits[CHANGED] + 12 * np.eye(10, dtype=np.float32)[[1]]
    files = tuple(f"{i}.png" for i in range(COUNT))
    origin = SampleOrigin(source="photos", samples=COUNT, kind="images", files=files)
    return SampledOutputs(feeds, [{"logits": a} for a in logits], origin), [{"logits": b} for b in outputs]


def of(samples: SampledOutputs, outputs: list[dict[str, np.ndarray]]) -> list[Example]:
    return examples(Judge(samples.outputs).samples(outputs), samples, outputs)


def test_changed_answers_come_first_and_then_the_worst() -> None:
    chosen = of(*classified())
    first, second = chosen[:2]
    assert (first.quality.sample, first.quality.expected, first.quality.answer) == (CHANGED, "7", "1")
    assert (first.file, first.quality.same, first.quality.answers) == ("7.png", 0, 1)
    assert second.quality.sample == WORST and second.quality.expected is None
    assert len(chosen) == 4 and from_json(list[Example], to_json(chosen)) == chosen


def test_made_up_samples_are_no_examples() -> None:
    samples, outputs = classified()
    assert of(replace(samples, origin=replace(samples.origin, seed=0)), outputs) == []


@pytest.mark.parametrize("shape", [(1, 3, 200, 300), (1, 200, 300, 3), (1, 1, 200, 300), (1, 3, 2, 300)])
def test_a_picture_is_the_image_that_the_model_sees(shape: tuple[int, ...]) -> None:
    samples, outputs = classified()
    image = np.zeros(shape, np.float32)
    image[..., 150:] = 1.0
    if shape[-1] == 3:
        image[:, :, 150:] = 1.0
    samples.feeds[CHANGED] = {"image": image - 0.5}
    picture = Image.open(io.BytesIO(base64.b64decode(of(samples, outputs)[0].picture or "")))
    assert max(picture.size) <= 96 and picture.getpixel((0, 0)) in (0, (0, 0, 0))
    assert picture.getpixel((picture.width - 1, 0)) in (255, (255, 255, 255))


def test_png_keeps_every_pixel() -> None:
    pixels = graphs.rng(1).integers(0, 256, (7, 5, 3), np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(pixels)))) == pixels).all()


def test_boxes_of_anchors_are_those_of_high_scores_once_each() -> None:
    table = np.zeros((1, 6, 200), np.float32)  # center, size and two classes, as YOLO returns them
    table[0, :4] = 10.0
    table[0, :, 50] = (100, 80, 40, 20, 0.1, 0.9)
    table[0, :, 51] = (101, 80, 40, 20, 0.1, 0.8)
    table[0, :, 120] = (30, 30, 10, 10, 0.6, 0.0)
    expected = [[80, 70, 120, 90], [25, 25, 35, 35]]
    assert boxes_of_anchors({"output0": table}).tolist() == expected
    assert boxes_of_anchors({"output0": table.transpose(0, 2, 1)}).tolist() == expected
    boxes, scores = table[:, :4].transpose(0, 2, 1), table[:, 4:].transpose(0, 2, 1)
    two = {"boxes": boxes, "scores": np.pad(scores, ((0, 0), (0, 0), (1, 0)))}
    assert boxes_of_anchors(two).tolist() == expected
    assert boxes_of_anchors({"logits": graphs.rng(0).standard_normal((1, 300, 80)).astype(np.float32)}) is None


def test_boxes_of_both_models_are_drawn_on_the_image() -> None:
    samples, _ = classified()
    box = np.zeros((1, 5, 300), np.float32)
    box[0, :, 9] = (15, 10, 6, 4, 0.9)
    samples.outputs[:] = [{"out": box}] * COUNT
    moved = box.copy()
    moved[0, 0, 9] = 18
    chosen = of(samples, [{"out": moved}] * COUNT)
    boxes = chosen[0].boxes
    assert boxes and boxes.original == [(0.4, 0.4, 0.6, 0.6)] and boxes.quantized == [(0.5, 0.4, 0.7, 0.6)]
    report = Report("a.onnx", "b.onnx", original_bytes=4, output_bytes=1, proof=Proof(examples=chosen))
    page = html.render(Report.from_dict(report.to_dict()))
    assert page.count('<rect class="before" x="0.4"') == page.count('<rect class="after" x="0.5"') == len(chosen)


def test_strings_are_shown() -> None:
    samples, outputs = classified()
    samples.feeds[CHANGED] = {"text": np.array([["a sentence"]], object)}
    assert of(samples, outputs)[0].text == "a sentence"
