"""Labels of samples, and the accuracy that they tell, against counts in numpy."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxquant
from onnxquant.calibration.feeds import Input, open_feeds
from onnxquant.errors import FeedError
from onnxquant.report import words
from onnxquant.report.state import State
from onnxquant.validation.accuracy import Accuracy

CLASSES, X = 6, Input("x", "tensor(float)", ("n", 80))


def classifier(path: Path, batch: int | str = "n", shape: tuple[int, ...] = (80,)) -> NDArray[np.float32]:
    """A product whose largest output is the class; its weight."""
    rows = int(np.prod(shape))
    weight = np.random.default_rng(0).normal(0, 1, (rows, CLASSES)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["scores"], name="m")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return weight


def accuracy(model: Path, output: Path, data: Any, **options: Any) -> Accuracy | None:
    report = onnxquant.quantize(model, output, data=data, bits=2, **options)
    assert report.proof is not None
    return report.proof.accuracy


def counted(path: Path, values: NDArray[Any], labels: NDArray[Any]) -> int:
    scores = onnxquant.load(path).run(None, {"x": values})[0]
    return int((scores.argmax(1) == labels).sum())


def test_labels_beside_the_inputs_tell_the_accuracy(tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx")
    values = np.random.default_rng(1).normal(0, 1, (60, 80)).astype(np.float32)
    labels = (values @ weight).argmax(1)
    labels[:6] = (labels[:6] + 1) % CLASSES
    np.savez(tmp_path / "f.npz", x=values, labels=labels)
    result = accuracy(tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "f.npz", solver="rtn")
    assert result is not None and (result.original, result.samples, result.output) == (54, 60, "scores")
    assert result.quantized == counted(tmp_path / "o.onnx", values, labels) < 54
    assert result.text == f"90.0 -> {100 * result.quantized / 60:.1f} %"
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    np.savez_compressed(tmp_path / "f.npz", x=values, y=one_hot)
    assert accuracy(tmp_path / "m.onnx", tmp_path / "h.onnx", tmp_path / "f.npz", solver="rtn") == result


def test_accuracy_is_of_samples_that_nothing_was_made_from(tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx")
    values = np.random.default_rng(1).normal(0, 1, (60, 80)).astype(np.float32)
    labels = (values @ weight).argmax(1)
    labels[-10:] = (labels[-10:] + 1) % CLASSES
    result = accuracy(tmp_path / "m.onnx", tmp_path / "o.onnx", {"x": values, "label": labels}, solver="gptq")
    assert result is not None and (result.original, result.samples) == (5, 15)


@pytest.mark.parametrize("batch", [1, 8])
def test_files_of_labels_tell_the_accuracy(batch: int, tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx", batch)
    values = np.random.default_rng(1).normal(0, 1, (20, 80)).astype(np.float32)
    labels = (values @ weight).argmax(1)
    np.savez(tmp_path / "f.npz", x=values)
    np.save(tmp_path / "l.npy", labels)
    (tmp_path / "l.txt").write_text("\n".join(map(str, labels)))
    (tmp_path / "l.csv").write_text("\n".join(["label", *map(str, labels)]))
    np.savez(tmp_path / "l.npz", labels)
    np.savez(tmp_path / "both.npz", x=values, Labels=labels)
    for name in ("l.npy", "l.npz", "both.npz", "l.txt", "l.csv"):
        result = accuracy(
            tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "f.npz", labels=str(tmp_path / name), force=True,
            solver="rtn",
        )  # fmt: skip
        assert result is not None and (result.original, result.samples) == (20, 20), name
    for name, content, says in (
        ("l.json", "[]", "ends in"),
        ("e.txt", "", "is empty"),
        ("gone.txt", None, "cannot be read"),
        ("f.npz", None, r"holds float32 \[20, 80\], expected one class"),
        ("broken.npz", "PK", "cannot be read as .npz"),
        ("two.npz", None, "expected an array called label, .* found a, b"),
        ("none.npz", None, "is empty"),
        ("text.npz", None, "labels is no array"),
        ("damaged.npz", None, "cannot be read as .npz"),
    ):
        np.savez(tmp_path / "two.npz", a=labels, b=labels)
        np.savez(tmp_path / "none.npz", labels[:0])
        with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
            archive.writestr("labels", "1 2 3")
        np.savez_compressed(tmp_path / "damaged.npz", np.random.default_rng(0).integers(0, 1000, 5000))
        damaged = (tmp_path / "damaged.npz").read_bytes()
        (tmp_path / "damaged.npz").write_bytes(damaged[:100] + b"\xff" * 20 + damaged[120:])
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(FeedError, match=says):
            accuracy(tmp_path / "m.onnx", tmp_path / "p.onnx", tmp_path / "f.npz", labels=str(tmp_path / name))


@pytest.mark.parametrize(
    ("label", "says"), [("999", "among 1000 classes"), ("-1", "no accuracy"), ("cat", "no accuracy")]
)
def test_labels_that_tell_no_accuracy_are_refused(label: str, says: str, tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx", 1)
    np.savez(tmp_path / "f.npz", x=np.random.default_rng(1).normal(0, 1, (20, 80)).astype(np.float32))
    (tmp_path / "l.txt").write_text(f"{label}\n" * 20)
    with pytest.raises(FeedError, match=says):
        accuracy(
            tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "f.npz", labels=str(tmp_path / "l.txt"), solver="rtn"
        )
    assert not (tmp_path / "o.onnx").exists()


def test_labels_that_tell_no_accuracy_leave_no_chosen_file(tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx", 1)
    np.savez(tmp_path / "f.npz", x=np.random.default_rng(1).normal(0, 1, (20, 80)).astype(np.float32))
    (tmp_path / "l.txt").write_text("999\n" * 20)
    given = {"data": tmp_path / "f.npz", "labels": str(tmp_path / "l.txt")}
    with pytest.raises(FeedError, match="among 1000 classes"):
        onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", **given)
    assert not (tmp_path / "o.onnx").exists()


def photos(folder: Path, names: list[str], weight: NDArray[Any]) -> dict[str, int]:
    """Two photos for each name, in folders; the class that the float model gives each."""
    random, answers = np.random.default_rng(2), {}
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}{i}.png")
            answers[f"{name}{i}.png"] = int(((pixels / 255).transpose(2, 0, 1).reshape(-1) @ weight).argmax())
    return answers


def test_folders_of_classes_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx", shape=(3, 4, 4))
    names = ["bee", "ant", "elk", "cat", "fox", "dog"]
    answers = photos(tmp_path / "val", names, weight)
    order = {name: number for number, name in enumerate(sorted(names))}
    right = sum(order[file[:3]] == answer for file, answer in answers.items())
    result = accuracy(tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "val", preprocess="mean=0", solver="rtn")
    assert result is not None and (result.original, result.samples) == (right, 12)
    assert result.mapping == {"ant": 0, "bee": 1, "cat": 2}


def test_other_numbers_of_folders_need_a_file(tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx", shape=(3, 4, 4))
    answers = photos(tmp_path / "val", ["bee", "ant"], weight)
    options = {"data": tmp_path / "val", "preprocess": "mean=0", "force": True, "format": "int8"}
    report = onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", **options)
    assert report.proof and report.proof.accuracy is None
    assert "2 folders of classes, and output 'scores' chooses among 6" in str(report.proof.no_accuracy)
    (tmp_path / "files.csv").write_text("".join(f"{file},{answer}\n" for file, answer in answers.items()))
    (tmp_path / "folders.csv").write_text("folder,class\nant,3\nbee,1\n")
    (tmp_path / "classes.txt").write_text("elk\nbee\ncat\nant\ndog\nfox\n")
    right = sum({"ant": 3, "bee": 1}[file[:3]] == answer for file, answer in answers.items())
    for name, wanted in (("files.csv", 4), ("folders.csv", right), ("classes.txt", right)):
        report = onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", labels=str(tmp_path / name), **options)
        assert report.proof and report.proof.accuracy and report.proof.accuracy.original == wanted, name
        assert report.proof.accuracy.samples == 4


def test_the_best_file_has_its_accuracy_told(tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx")
    values = np.random.default_rng(1).normal(0, 1, (20, 80)).astype(np.float32)
    data = {"x": values, "labels": (values @ weight).argmax(1)}
    report = onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", data=data, effort="low")
    assert report.choice and report.proof and report.proof.accuracy
    assert report.proof.accuracy.original == report.proof.accuracy.samples >= 10


def test_arrays_beside_the_inputs_are_left_out_and_named(tmp_path: Path) -> None:
    rows = np.zeros((4, 80), np.float32)
    for data in ({"x": rows, "y": np.zeros(4, np.float32)}, {"x": rows, "rating": np.zeros(7)}):
        np.savez(tmp_path / "f.npz", **data)
        feeds = open_feeds(tmp_path / "f.npz", [X])
        other = next(name for name in data if name != "x")
        assert [list(feed) for feed in feeds] == [["x"]] * 4
        assert feeds.origin.remarks == (f"{other}: the array is left out, as the model has no input of that name",)
    (tmp_path / "each").mkdir()
    np.savez(tmp_path / "each" / "0.npz", x=rows, rating=np.zeros(7))
    assert [list(feed) for feed in open_feeds(tmp_path / "each", [X])] == [["x"]]
    mask = Input("mask", "tensor(float)", ("n", 80), default=True)
    for data in ({"xs": rows}, {"x": rows, "masks": rows}):  # misspelt: an input is missing
        with pytest.raises(FeedError, match=r"the model has no input '(xs|masks)'"):
            open_feeds(data, [X, mask])
    with pytest.raises(FeedError, match="arrays differ in their number of samples"):
        open_feeds({"x": np.zeros((4, 80), np.float32), "labels": np.zeros(3, np.int64)}, [X])


def yes_or_no(path: Path) -> NDArray[np.float32]:
    """A product of features whose Sigmoid is the probability of yes; its weight."""
    weight = np.random.default_rng(0).normal(0, 1, (80, 1)).astype(np.float32)
    wide = np.tile(weight, 16) + np.random.default_rng(1).normal(0, 0.01, (80, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["many"]),
        helper.make_node("ReduceMean", ["many"], ["one"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["one"], ["churn"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 80), ("churn", 1)))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(wide, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return wide


@pytest.mark.parametrize("no_and_yes", [("0", "1"), ("0.0", "1.0"), ("No", "yes")])
def test_a_column_of_labels_tells_the_accuracy_of_yes_and_no(no_and_yes: tuple[str, str], tmp_path: Path) -> None:
    weight = yes_or_no(tmp_path / "m.onnx")
    values = np.random.default_rng(1).normal(0, 1, (20, 80)).astype(np.float32).round(3)
    labels = (values @ weight).mean(1) > 0
    labels[:4] = ~labels[:4]
    heading = ",".join([*(f"f{i}" for i in range(80)), "label"])
    rows = [",".join([*map(str, row), no_and_yes[int(label)]]) for row, label in zip(values, labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([heading, *rows]))
    result = accuracy(tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "t.csv", solver="rtn", samples=20)
    assert result is not None and (result.original, result.samples, result.classes) == (16, 20, 2)
    assert not result.is_at_chance and result.mapping is None


def test_labels_that_tell_no_accuracy_are_said(tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx")
    values = np.random.default_rng(1).normal(0, 1, (20, 80)).astype(np.float32)
    data = {"x": values, "labels": np.full(20, 9)}
    report = onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", data=data)
    said = dict(words.lines(report, report.verdict))["accuracy"]
    assert said == "not known: no output chooses among 10 classes or more"


def test_an_original_at_chance_says_that_the_samples_are_wrong(tmp_path: Path) -> None:
    weight = classifier(tmp_path / "m.onnx")
    values = np.random.default_rng(1).normal(0, 1, (24, 80)).astype(np.float32)
    labels = (values @ weight).argmax(1)
    for turned, right, is_wrong in ((20, 4, True), (12, 12, False)):
        given = np.where(np.arange(24) < turned, (labels + 1) % CLASSES, labels)
        data = {"x": values, "labels": given}
        report = onnxquant.quantize(tmp_path / "m.onnx", tmp_path / "o.onnx", data=data, bits=8, samples=24, force=True)
        assert report.proof and report.proof.accuracy and report.proof.accuracy.original == right
        assert report.verdict.state is not State.PASSED or not is_wrong
        assert (f"{right} of 24 right, no more than chance of 6 classes" in report.verdict.next) is is_wrong
