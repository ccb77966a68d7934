"""Feeds from images: every step against numpy on images whose pixels are known."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from samples import read

from onnxquant.calibration.feeds import NO_FACTS, Input, open_feeds, split
from onnxquant.calibration.feeds.settings import entries
from onnxquant.cli import main
from onnxquant.errors import FeedError

NCHW = Input("image", "tensor(float)", ("n", 3, 8, 6))
NHWC = Input("image", "tensor(float)", ("n", 8, 6, 3))
OPEN = Input("image", "tensor(float)", ("n", 3, "h", "w"))


def pixels(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def folder(path: Path, *images: NDArray[np.uint8], ending: str = "png") -> Path:
    path.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i}.{ending}")
    return path


def one(data: Path, spec: Input, preprocess: Any = None) -> NDArray[Any]:
    return read(data, [spec], None, preprocess)[0][spec.name]


def test_defaults_follow_the_input_and_are_reported(tmp_path: Path) -> None:
    image = pixels(8, 6)
    feeds = open_feeds(folder(tmp_path / "a", image), [NCHW])
    got = next(iter(feeds))["image"]
    assert got.dtype == np.float32 and got.flags.c_contiguous
    assert np.array_equal(got, (image / 255).transpose(2, 0, 1)[None].astype(np.float32))
    said = ["layout=NCHW", "order=RGB", "dtype=float32", "scale=1/255", "size=8x6", "resize=crop"]
    assert list(feeds.origin.assumed) == said and feeds.origin.kind == "images"
    assert np.array_equal(one(tmp_path / "a", NHWC), (image / 255)[None].astype(np.float32))


def test_mean_std_scale_and_order_are_applied(tmp_path: Path) -> None:
    image = pixels(8, 6)
    data = folder(tmp_path / "a", image)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = ((image / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
    assert np.array_equal(one(data, NCHW, "mean=0.485,0.456,0.406,std=0.229,0.224,0.225"), wanted)
    bgr = (image[..., ::-1] - np.array([104.0, 117.0, 123.0]))[None].astype(np.float32)
    assert np.array_equal(one(data, NHWC, "order=BGR,scale=1,mean=104,117,123"), bgr)
    half = one(data, Input("image", "tensor(float16)", ("n", 3, 8, 6)), "mean=0.5,std=0.5")
    assert np.array_equal(half, ((image / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float16))


def test_integer_inputs_take_pixels(tmp_path: Path) -> None:
    image = pixels(8, 6)
    data = folder(tmp_path / "a", image)
    byte = Input("image", "tensor(uint8)", (1, 8, 6, 3))
    assert np.array_equal(one(data, byte), image[None])
    signed = Input("image", "tensor(int8)", (1, 8, 6, 3))
    assert np.array_equal(one(data, signed, "mean=128"), (image.astype(int) - 128).astype(np.int8)[None])
    with pytest.raises(FeedError, match=r"0\.png: values -\d+ to \d+ do not fit uint8; look at scale, mean, std"):
        one(data, byte, "mean=128")


def test_inputs_of_three_axes_and_gray_images(tmp_path: Path) -> None:
    image = pixels(8, 6)
    data = folder(tmp_path / "a", image)
    assert one(data, Input("image", "tensor(float)", (3, 8, 6))).shape == (3, 8, 6)
    gray = one(data, Input("image", "tensor(float)", (1, 1, 8, 6)), "scale=1")
    weighted = image @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert gray.shape == (1, 1, 8, 6) and np.abs(gray[0, 0] - weighted).max() <= 1
    assert np.abs(gray[0, 0] - weighted).max() > 0


def test_crop_takes_the_centre(tmp_path: Path) -> None:
    image = pixels(16, 12)
    data = folder(tmp_path / "a", image)
    # Twice the size: covered by halving; nearest takes every other pixel.
    assert np.array_equal(one(data, NHWC, "scale=1,resample=nearest")[0], image[1::2, 1::2].astype(np.float32))
    # shorter=12 leaves the image as it is: the centre 8x6 of 16x12.
    assert np.array_equal(one(data, NHWC, "scale=1,shorter=12")[0], image[4:12, 3:9].astype(np.float32))
    wide = folder(tmp_path / "b", pixels(8, 20, seed=1))
    assert np.array_equal(one(wide, NHWC, "scale=1")[0], pixels(8, 20, seed=1)[:, 7:13].astype(np.float32))
    with pytest.raises(FeedError, match="is 5x4 with shorter=4, less than 8x6"):
        one(data, NHWC, "shorter=4")


def test_stretch_and_pad_fill_the_size(tmp_path: Path) -> None:
    flat = np.full((4, 6, 3), 200, np.uint8)
    data = folder(tmp_path / "a", flat)
    assert (one(data, NHWC, "resize=stretch,scale=1") == 200).all()
    padded = one(data, NHWC, "resize=pad,scale=1,pad_value=7")[0]
    assert (padded[2:6] == 200).all() and (padded[:2] == 7).all() and (padded[6:] == 7).all()


def test_box_resampling_is_the_mean(tmp_path: Path) -> None:
    """Halving with a box filter is the mean of 2x2 pixels: an oracle that needs no imaging library."""
    image = pixels(16, 12)
    got = one(folder(tmp_path / "a", image), NHWC, "resize=stretch,resample=box,scale=1")[0]
    mean = image.reshape(8, 2, 6, 2, 3).mean((1, 3))
    assert np.abs(got - mean).max() <= 1  # rounded once per axis
    assert np.array_equal(got, np.rint(got)) and not np.array_equal(got, mean)


def test_images_keep_their_size_where_the_input_is_open(tmp_path: Path) -> None:
    equal = folder(tmp_path / "a", pixels(5, 9), pixels(5, 9, 1))
    feeds = open_feeds(equal, [OPEN])
    assert [f["image"].shape for f in feeds] == [(1, 3, 5, 9)] * 2 and "resize=none" in feeds.origin.assumed
    mixed = folder(tmp_path / "b", pixels(5, 9), pixels(7, 9))
    with pytest.raises(
        FeedError, match=r"differ in size \(0\.png 5x9, 1\.png 7x9\) .* give size=HEIGHTxWIDTH, or resize"
    ):
        open_feeds(mixed, [OPEN])
    assert [f["image"].shape for f in open_feeds(mixed, [OPEN], preprocess="resize=none")] == [
        (1, 3, 5, 9),
        (1, 3, 7, 9),
    ]
    assert [f["image"].shape for f in open_feeds(mixed, [OPEN], preprocess="size=4x2")] == [(1, 3, 4, 2)] * 2
    with pytest.raises(FeedError, match=r"input 'image' has shape \[1, 3, 5, 9\], expected \['n', 3, 8, 6\]"):
        open_feeds(mixed, [NCHW], preprocess="resize=none")


def test_one_side_follows_the_proportions(tmp_path: Path) -> None:
    """A text recogniser: height 64, width as long as the line is."""
    spec = Input("input1", "tensor(float)", (1, 1, 64, "image_width"))
    feeds = open_feeds(folder(tmp_path / "a", pixels(32, 80), pixels(128, 100)), [spec])
    assert [f["input1"].shape for f in feeds] == [(1, 1, 64, 160), (1, 1, 64, 50)]
    assert "size=64xopen, the other side by the image's proportions" in feeds.origin.assumed


@pytest.mark.parametrize("ending", ["jpg", "bmp", "webp", "PNG", "tif", "TIFF"])
def test_every_image_ending_is_read(ending: str, tmp_path: Path) -> None:
    flat = np.full((8, 6, 3), 100, np.uint8)
    assert np.abs(one(folder(tmp_path / "a", flat, ending=ending), NHWC, "scale=1") - 100).max() <= 3


def test_image_modes_are_converted_and_rotations_applied(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    image = pixels(8, 6)
    opaque = np.concatenate([image, np.full((8, 6, 1), 255, np.uint8)], -1)
    Image.fromarray(opaque).save(tmp_path / "a" / "0.png")
    rotated = Image.fromarray(np.rot90(image).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to see it upright
    rotated.save(tmp_path / "a" / "1.png", exif=exif)
    Image.fromarray(image[..., 0]).save(tmp_path / "a" / "2.png")
    rgba, upright, gray = (f["image"][0] for f in read(tmp_path / "a", [NHWC], None, "scale=1"))
    assert np.array_equal(rgba, image) and np.array_equal(upright, image)
    assert all(np.array_equal(gray[..., c], image[..., 0]) for c in range(3))


def test_descriptions_are_read_from_files_texts_and_mappings(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('size = [8, 6]\nmean = [0.5, 0.5, 0.5]\nresize = "stretch"\n')
    (tmp_path / "p.yaml").write_text("size: 8x6\nmean: [0.5, 0.5, 0.5]\nresize: stretch\n")
    data = folder(tmp_path / "a", pixels(20, 20))
    given = [tmp_path / "p.toml", str(tmp_path / "p.yaml"), "size=8x6,mean=0.5,0.5,0.5,resize=stretch"]
    got = [one(data, NCHW, p) for p in [*given, {"size": (8, 6), "mean": [0.5] * 3, "resize": "stretch"}]]
    assert all(np.array_equal(got[0], other) for other in got)
    assert entries("size=8,6,layout=NCHW,a=1.5") == {"size": [8, 6], "layout": "NCHW", "a": 1.5}


@pytest.mark.parametrize(
    ("preprocess", "says"),
    [
        ("sise=3", "images have no key 'sise'; did you mean 'size'"),
        ("size=3x4x5", "size is '3x4x5', expected height and width"),
        ("size=0", "size is 0, expected height and width"),
        ("size=axb", "size is 'axb', expected height and width"),
        ("resize=fill", "resize is 'fill', expected crop, stretch, pad or none"),
        ("resample=cubic", "resample is 'cubic', expected nearest"),
        ("layout=CHWN", "layout is 'CHWN', expected NCHW or NHWC"),
        ("order=RBG", "order is 'RBG', expected RGB, BGR or GRAY"),
        ("dtype=float128", "dtype is 'float128', expected"),
        ("mean=a", "mean is 'a', expected a number, or one for each channel"),
        ("mean=1,2", r"mean is \[1, 2\], expected 1 or 3 numbers"),
        ("std=1,0,1", "std is 0"),
        ("scale=x", "scale is 'x', expected a number"),
        ("pad_value=300", "pad_value is 300, expected 0 to 255"),
        ("shorter=1.5", "shorter is 1.5, expected a number of pixels"),
        ("input=picture", "no input 'picture'"),
        ("size=3,size=4", "size is given twice"),
        ("=3,4", "expected key=value, found '4'"),
        ("picture.json", "expected a .toml or .yaml file, or key=value"),
        ("gone.toml", "preprocess: gone.toml: cannot be read"),
    ],
)
def test_bad_descriptions_are_refused(preprocess: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=says):
        open_feeds(folder(tmp_path / "a", pixels(8, 6)), [NCHW], preprocess=preprocess)


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", pixels(8, 6))
    for name, content in (("p.toml", "size = ["), ("p.yaml", "size: [")):
        (tmp_path / name).write_text(content)
        with pytest.raises(FeedError, match=f"{name}: not well-formed"):
            open_feeds(data, [NCHW], preprocess=tmp_path / name)


def test_bad_images_are_refused(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", pixels(8, 6), pixels(8, 6))
    (data / "1.png").write_bytes((data / "0.png").read_bytes()[:90])
    with pytest.raises(FeedError, match=r"1\.png: cannot be read as an image"):
        read(data, [NCHW], None)
    (data / "0.png").write_text("not an image")
    with pytest.raises(FeedError, match=r"0\.png: cannot be read as an image: cannot identify"):
        open_feeds(data, [NCHW])
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(np.full((8, 6), 40_000, np.uint16)).save(deep / "0.png")
    with pytest.raises(FeedError, match=r"has pixels of mode I;16, expected 8 bits per channel"):
        open_feeds(deep, [NCHW])


def test_a_damaged_image_is_refused_before_any_is_read(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", *[pixels(40, 30)] * 3)
    for name, format in (("8.JPG", "JPEG"), ("9.PNG", "PNG")):
        Image.fromarray(pixels(40, 30)).save(data / name, format)
        assert len(open_feeds(data, [NCHW])) == 4
        (data / name).write_bytes((data / name).read_bytes()[:-40])
        with pytest.raises(FeedError, match=rf"{name}: cannot be read as an image"):
            open_feeds(data, [NCHW], limit=1)
        (data / name).unlink()


def test_images_are_joined_to_batches_of_fixed_size(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", *[pixels(8, 6)] * 5)
    feeds = open_feeds(data, [Input("x", "tensor(float)", (2, 3, 8, 6))])
    batches = [f["x"] for f in feeds]
    assert [b.shape for b in batches] == [(2, 3, 8, 6)] * 3 and np.array_equal(batches[2][0], batches[2][1])
    assert "1 samples are repeated to fill a batch" in (feeds.origin.assumed or ())
    alone = read(data / "0.png", [Input("x", "tensor(float)", (2, 3, 8, 6))], None)
    assert len(alone) == 1 and np.array_equal(alone[0]["x"][0], alone[0]["x"][1])


def test_models_without_an_image_input_are_refused(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", pixels(8, 6))
    for inputs, says in (
        ([Input("ids", "tensor(int64)", ("n", 3))], "no input is an image .*the model takes ids"),
        ([NCHW, Input("other", "tensor(float)", (1, 3, 8, 6))], "several inputs may be images: give input=NAME"),
        ([NCHW, Input("sr", "tensor(int64)", ())], "input 'sr' is missing"),
        ([Input("x", "tensor(float)", (1, 4, 8, 6))], "does not show its layout|has 4 channels"),
        ([Input("x", "tensor(float)", (1, 3, 8, 3))], "does not show its layout: give layout=NCHW or layout=NHWC"),
    ):
        with pytest.raises(FeedError, match=says):
            open_feeds(data, inputs)


def test_a_folder_of_arrays_and_images_is_refused(tmp_path: Path) -> None:
    data = folder(tmp_path / "a", pixels(8, 6))
    np.save(data / "x.npy", pixels(8, 6))
    with pytest.raises(FeedError, match=r"holds both arrays \(x\.npy\) and images \(0\.png\)"):
        open_feeds(data, [NCHW])


def test_images_without_pillow_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, find = folder(tmp_path / "a", pixels(8, 6)), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else find(name))
    with pytest.raises(FeedError, match=r"needs Pillow: pip install 'onnxquant\[images\]'"):
        open_feeds(data, [NCHW])


def test_preprocess_on_the_command_line(default_model: Path, tmp_path: Path) -> None:
    data = folder(tmp_path / "a", *(pixels(30, 40, i) for i in range(3)))
    out = tmp_path / "out.onnx"
    given = ["--data", str(data), "--preprocess", "order=GRAY,resize=stretch"]
    done = CliRunner().invoke(main, ["quantize", str(default_model), "-o", str(out), *given, "--format", "int8", "--json"])
    assert done.exit_code == 0, done.output
    feeds = json.loads(done.stdout)["proof"]["feeds"]
    assert feeds["source"] == str(data) and feeds["samples"] == 3 and feeds["preprocess"]["resize"] == "stretch"
    asked = ["validate", str(default_model), str(out)]
    wrong = CliRunner().invoke(main, [*asked, "--data", str(data), "--preprocess", "sise=3"])
    assert wrong.exit_code == 2 and "did you mean 'size'" in wrong.stderr
    alone = CliRunner().invoke(main, [*asked, "--preprocess", "size=3"])
    assert alone.exit_code == 2 and "preprocess: has no effect without samples: give --data" in alone.stderr


@pytest.mark.parametrize(("outputs", "are_classes"), [(6, True), (7, False)])
def test_folders_that_are_classes_calibrate_and_judge_with_every_class(
    outputs: int, are_classes: bool, tmp_path: Path
) -> None:
    for name in "abcdef":
        folder(tmp_path / name, *(pixels(8, 6, i) for i in range(8)))
    feeds = open_feeds(tmp_path, [NCHW], facts=replace(NO_FACTS, outputs={"logits": outputs}))
    halves = split(feeds, 4, 512)
    calibrating, judging = ({file.parent.name for file in part.files} for part in (halves.calibrating, halves.judging))
    assert not {*halves.calibrating.files} & {*halves.judging.files}
    if are_classes:
        assert calibrating == judging == set("abcdef")
    else:  # a folder may be a film
        assert not calibrating & judging
