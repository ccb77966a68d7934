"""Presets of image steps against the formulas of the libraries that they are named after, and guesses of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxquant
from onnxquant.calibration.feeds import Assumption, Input, ModelFacts, facts_of, open_feeds
from onnxquant.calibration.feeds.prepared import preparation
from onnxquant.cli import main
from onnxquant.errors import FeedError
from onnxquant.graph.io import load

SIZES = [(120, 97), (241, 320), (300, 300)]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture(path: Path, height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(height).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path)
    return image


def fed(file: Path, shape: tuple[int, ...], preprocess: Any, facts: ModelFacts | None = None) -> NDArray[Any]:
    spec = Input("x", "tensor(float)", shape)
    return next(iter(open_feeds(file, [spec], preprocess=preprocess, facts=facts or ModelFacts())))["x"]


def normalized(image: Image.Image, mean: Any, std: Any) -> NDArray[np.float32]:
    values = (np.asarray(image, np.float64) / 255 - mean) / std
    return values.transpose(2, 0, 1)[None].astype(np.float32)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_imagenet_is_torchvisions_resize_and_center_crop(height: int, width: int, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", height, width)
    short, long = sorted((height, width))
    sides = (256, int(256 * long / short))  # torchvision: _compute_resized_output_size, center_crop
    scaled = image.resize(sides if width <= height else sides[::-1], Image.Resampling.BILINEAR)
    top, left = round((scaled.height - 224) / 2.0), round((scaled.width - 224) / 2.0)
    wanted = normalized(scaled.crop((left, top, left + 224, top + 224)), *IMAGENET)
    assert fed(tmp_path / "a.png", (1, 3, 224, 224), "imagenet").tobytes() == wanted.tobytes()
    assert fed(tmp_path / "a.png", (1, 3, "h", "w"), "imagenet").tobytes() == wanted.tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(241, 320), (300, 300), (333, 500)])
def test_clip_and_siglip_are_those_of_transformers(height: int, width: int, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", height, width)
    short, long = sorted((height, width))
    sides = (64, int(64 * long / short))
    scaled = image.resize(sides if width <= height else sides[::-1], Image.Resampling.BICUBIC)
    top, left = (scaled.height - 64 + 1) // 2, (scaled.width - 64 + 1) // 2
    cropped = scaled.crop((left, top, left + 64, top + 64))
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    assert np.array_equal(fed(tmp_path / "a.png", (1, 3, 64, 64), "clip"), normalized(cropped, *clip))
    stretched = image.resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(fed(tmp_path / "a.png", (1, 3, 64, 64), "siglip"), normalized(stretched, 0.5, 0.5))


def linear(pixels: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """Linear interpolation between centres of pixels, in float64."""
    def along(values: NDArray[Any], length: int) -> NDArray[np.float64]:
        old = np.arange(len(values)) + 0.5
        new = (np.arange(length) + 0.5) * len(values) / length
        flat = values.reshape(len(values), -1)
        columns = [np.interp(new, old, flat[:, i]) for i in range(flat.shape[1])]
        return np.stack(columns, 1).reshape(length, *values.shape[1:])

    return along(along(pixels.astype(np.float64), height).swapaxes(0, 1), width).swapaxes(0, 1)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_yolo_is_the_letterbox_of_ultralytics(height: int, width: int, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", height, width)
    ratio = min(160 / height, 160 / width)
    sides = round(height * ratio), round(width * ratio)
    top, left = round((160 - sides[0]) / 2 - 0.1), round((160 - sides[1]) / 2 - 0.1)
    got = fed(tmp_path / "a.png", (1, 3, 160, 160), "yolo")[0].transpose(1, 2, 0) * 255
    inner = got[top : top + sides[0], left : left + sides[1]]
    assert np.abs(inner - linear(np.asarray(image), *sides)).max() <= 1  # OpenCV computes in fixed point
    border = np.ones((160, 160), bool)
    border[top : top + sides[0], left : left + sides[1]] = False
    assert np.allclose(got[border], 114)
    other = fed(tmp_path / "a.png", (1, 3, 160, 160), "fit=letterbox,pad=114,resample=linear,scale=1/255,mean=0")
    assert np.array_equal(other, fed(tmp_path / "a.png", (1, 3, 160, 160), "yolo"))


def test_linear_resampling_is_that_of_opencv(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    image = picture(tmp_path / "a.png", 241, 320)
    got = fed(tmp_path / "a.png", (1, 3, 100, 200), "fit=stretch,resample=linear,scale=1")[0].transpose(1, 2, 0)
    assert np.array_equal(got, cv2.resize(np.asarray(image), (200, 100), interpolation=cv2.INTER_LINEAR))


def test_ocr_is_the_line_of_paddleocr(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 64, 211)
    width = math.ceil(48 * 211 / 64)
    line = linear(np.asarray(image)[..., ::-1], 48, width) / 127.5 - 1
    got = fed(tmp_path / "a.png", (1, 3, 48, 320), "ocr")[0].transpose(1, 2, 0)
    assert np.abs(got[:, :width] - line).max() <= 1.01 / 127.5 and not got[:, width:].any()


def test_a_preset_is_overridden_by_what_follows_it(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 100, 80)
    flat = image.resize((64, 64), Image.Resampling.BILINEAR)
    got = fed(tmp_path / "a.png", (1, 3, 64, 64), "imagenet,fit=stretch,std=0.5")
    assert np.array_equal(got, normalized(flat, IMAGENET[0], 0.5))
    bigger = fed(tmp_path / "a.png", (1, 3, "h", "w"), "imagenet,size=96")  # type: ignore[arg-type]
    assert bigger.shape == (1, 3, 96, 96)
    (tmp_path / "p.toml").write_text('preset = "imagenet"\nfit = "stretch"\nstd = 0.5\nscale = "1/255"\n')
    assert np.array_equal(fed(tmp_path / "a.png", (1, 3, 64, 64), tmp_path / "p.toml"), got)
    for preprocess, says in (
        ("imgnet", "did you mean 'imagenet'"), ("imgnet,size=3", "which is no preset; did you mean 'imagenet'"),
        ({"preset": "yolo11"}, "images have no preset 'yolo11'; did you mean 'yolo'"),
    ):  # fmt: skip
        with pytest.raises(FeedError, match=says):
            fed(tmp_path / "a.png", (1, 3, 64, 64), preprocess)


def model(path: Path, first: list[onnx.NodeProto], weights: dict[str, Any], metadata: dict[str, str]) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()]
    nodes = [*first, helper.make_node("GlobalAveragePool", ["y"], ["z"]), helper.make_node("Flatten", ["z"], ["out"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, "c"])
    graph = helper.make_graph(nodes, "g", [x], [out], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, metadata)
    onnx.save(proto, path)
    return path


def node(op: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"])


CHANNELS = [[[103.94]], [[116.78]], [[123.68]]]


@pytest.mark.parametrize(
    ("first", "weights", "largest"),
    [
        ([node("Sub", "x", "m")], {"m": CHANNELS}, 255),
        ([node("Div", "x", "d")], {"d": 255}, 255),
        ([node("Mul", "x", "f")], {"f": 1 / 255}, 255),
        ([helper.make_node("Div", ["x", "d"], ["a"]), node("Sub", "a", "o")], {"d": 127.5, "o": 1}, 255),
        ([node("BatchNormalization", "x", *"gbmv")], {"g": [1] * 3, "b": [0] * 3, "m": [120] * 3, "v": [3600] * 3}, 255),
        ([helper.make_node("Sub", ["x", "m"], ["a"]), node("Div", "a", "d")], {"m": 0.485, "d": 0.229}, 1),
        ([node("Mul", "x", "f")], {"f": 1.5}, None),
        ([node("Relu", "x")], {}, None),
    ],
)  # fmt: skip
def test_a_graph_that_normalizes_itself_takes_what_it_expects(
    first: list[onnx.NodeProto], weights: dict[str, Any], largest: int | None, tmp_path: Path
) -> None:
    facts = facts_of(load(model(tmp_path / "m.onnx", first, weights, {})))
    assert facts.largest_pixel.get("x") == largest
    image = picture(tmp_path / "a.png", 64, 64)
    values = np.asarray(image, np.float64).transpose(2, 0, 1)[None] * ((largest or 1) / 255)
    assert np.array_equal(fed(tmp_path / "a.png", (1, 3, 64, 64), None, facts), values.astype(np.float32))


def test_files_and_metadata_say_what_a_model_takes(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 90, 100)
    path = model(tmp_path / "m.onnx", [node("Relu", "x")], {}, {"author": "Ultralytics", "task": "detect"})
    assert fed(tmp_path / "a.png", (1, 3, 64, 64), None, facts_of(load(path)))[0, 0, 0, 0] == np.float32(114 / 255)
    (tmp_path / "onnx").mkdir()
    plain = model(tmp_path / "onnx" / "m.onnx", [node("Relu", "x")], {}, {})
    config = {"do_resize": True, "size": {"height": 64, "width": 64}, "resample": 3, "rescale_factor": 1 / 255,
              "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    wanted = normalized(image.resize((64, 64), Image.Resampling.BICUBIC), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert np.array_equal(fed(tmp_path / "a.png", (1, 3, 64, 64), None, facts_of(load(plain))), wanted)


def test_names_and_sizes_say_what_a_model_takes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 64, 64)
    for name, shape, outputs, preset in (
        ("input", (1, 3, 224, 224), {"logits": 1000}, "imagenet"),
        ("input", (1, 224, 224, 3), {"probs": 1001}, "minus1to1"),
        ("images", (1, 3, 640, 640), {"output0": None}, "yolo"),
        ("x", (1, 3, 48, "w"), {"softmax": None}, "ocr"),
        ("pixel_values", (1, 3, 224, 224), {"image_embeds": 512}, "clip"),
    ):
        spec, facts = Input(name, "tensor(float)", shape), ModelFacts(outputs=outputs)
        guessed, given = (
            next(iter(open_feeds(tmp_path / "a.png", [spec], preprocess=p, facts=facts)))[name] for p in (None, preset)
        )
        assert np.array_equal(guessed, given), preset
        plain = open_feeds(tmp_path / "a.png", [spec], preprocess="mean=0", facts=facts)
        assert next(iter(plain))[name].min() >= 0, "values that are given are not guessed"


def test_the_guess_is_said_in_full(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture(tmp_path / "photos" / "a.png", 64, 64)
    spec, facts = Input("x", "tensor(float)", (1, 3, 224, 224)), ModelFacts(outputs={"logits": 1000})
    assert preparation(open_feeds(tmp_path / "photos", [spec], facts=facts).origin) == (
        "RGB NCHW float32, 224x224, centre crop of 0.875, bilinear, values -2.12 to 2.64 (pixel/255, less mean "
        "0.485,0.456,0.406, over std 0.229,0.224,0.225); guessed (--preprocess imagenet): 1000 classes are ImageNet's; "
        "--preprocess overrides it"
    )
    path = model(tmp_path / "m.onnx", [node("Conv", "x", "w")], {"w": np.ones((4096, 3, 1, 1))}, {})
    arguments = ["quantize", str(path), "-o", str(tmp_path / "o.onnx"), "--data", str(tmp_path / "photos")]
    done = CliRunner().invoke(main, [*arguments, "--report", str(tmp_path / "r.md"), "--report", str(tmp_path / "r.html")])
    said = "ASSUMED, as nothing tells which values the model takes: give --preprocess imagenet, yolo"
    assert done.exit_code == 0 and said in " ".join(done.stdout.split()), done.output
    assert said in (tmp_path / "r.md").read_text() and said in (tmp_path / "r.html").read_text()


def test_a_verdict_names_what_was_assumed_until_it_is_confirmed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    picture(tmp_path / "photos" / "a.png", 64, 64)
    path = model(tmp_path / "m.onnx", [node("Conv", "x", "w")], {"w": np.ones((4096, 3, 1, 1))}, {})
    arguments = ["--data", str(tmp_path / "photos"), "--force"]

    def run(*options: str) -> str:
        done = CliRunner().invoke(main, [*options, *arguments[: 2 if options[0] == "validate" else 3]])
        assert done.exit_code == 0, done.output
        return done.stdout

    make = ["quantize", str(path), "-o", str(tmp_path / "o.onnx"), "--preprocess", "order=BGR"]
    lines = run(*make).splitlines()
    assert lines[0].endswith("o.onnx, if the model takes pixels from 0 to 1")
    option = "--preprocess order=BGR,scale=1/255"
    said = f"Confirm first that the model takes pixels from 0 to 1, which was ASSUMED: {option} says so."
    check = ["validate", str(path), str(tmp_path / "o.onnx")]
    for command in (make, check):
        data = json.loads(run(*command, "--json"))
        assumed = {"what": "pixels from 0 to 1", "option": option, "is_guess": False}
        assert data["verdict"]["assumption"] == assumed, "a file records that nobody has confirmed it"
        assert data["verdict"]["next"].startswith(said)
        (tmp_path / "r.json").write_text(json.dumps(data))
        assert onnxquant.Report.load(tmp_path / "r.json").verdict.next == data["verdict"]["next"]
    for command in (check, make):
        confirmed = json.loads(run(*command, *option.split(), "--json"))
        assert "assumption" not in confirmed["verdict"] and "Confirm" not in confirmed["verdict"]["next"]


def test_guesses_are_confirmed_by_their_option_and_facts_need_none(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 64, 64)
    spec = Input("x", "tensor(float)", (1, 3, 224, 224))

    def assumption(facts: ModelFacts, preprocess: str | None = None) -> Assumption | None:
        return open_feeds(tmp_path / "a.png", [spec], preprocess=preprocess, facts=facts).origin.assumption

    classes = ModelFacts(outputs={"logits": 1000})
    guess = assumption(classes, "resize=stretch")
    what, option = "images as preset imagenet prepares them", "--preprocess imagenet,resize=stretch"
    assert guess == Assumption(what, option, is_guess=True) and assumption(classes, option.split()[1]) is None
    assert assumption(ModelFacts(metadata={"author": "Ultralytics"})) is None
    assert assumption(ModelFacts(largest_pixel={"x": 255})) is None
