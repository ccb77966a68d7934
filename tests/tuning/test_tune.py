"""Tuning from end to end on the default model."""

import json

import numpy as np
import onnx
import pytest
import torch
from commands import run

import onnxquant
from onnxquant import training
from onnxquant.errors import FeedError, ModelError, RecipeError, WeightError

MODEL, TEST = "models/default.onnx", "models/default_test.npz"
WAYS = {
    "blocks": {"format": "q4_0"},
    "table": {"format": "nf4"},
    "static": {"activations": "static", "time": "1s"},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    images = np.load(TEST)["image"].astype(np.float32)[:, None, None] / 255
    path = tmp_path_factory.mktemp("digits") / "images.npz"
    np.savez(path, image=images[:64])
    return path, images[1000:1100]


def noise(path, images):
    """Mean square of the error of the logits over that of the logits, on images that nothing was learned from."""
    sessions = [onnxquant.load(p) for p in (MODEL, path)]
    exact, ours = (np.concatenate([s.run(None, {"image": i})[0] for i in images]) for s in sessions)
    return np.square(ours - exact).mean() / np.square(exact).mean()


@pytest.mark.parametrize("way", ["blocks", "table"])
def test_less_noise_is_left_on_images_that_nothing_was_learned_from(way, digits, tmp_path):
    data, images = digits
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnxquant.quantize(MODEL, before, data=data, proof=False, goal=None, **WAYS[way])
    report = onnxquant.quantize(MODEL, after, data=data, tune_epochs=4, threads=1, proof=False, **WAYS[way])
    assert report.tuning.gained
    assert report.tuning.after > report.tuning.before
    assert noise(after, images) < noise(before, images)
    # Learning changes numbers alone: the same nodes, the same types and shapes.
    nodes = [[n.op_type for n in onnx.load(path).graph.node] for path in (before, after)]
    assert nodes[0] == nodes[1]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(digits, tmp_path):
    data, _ = digits
    files = [tmp_path / f"{i}.onnx" for i in range(3)]
    for path, seed in zip(files, (5, 5, 6), strict=True):
        onnxquant.quantize(
            MODEL, path, data=data, format="q4_0", tune_epochs=1, tune_seed=seed, threads=1, proof=False
        )
    weights = [[t.raw_data for t in onnx.load(path).graph.initializer] for path in files]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_learned_ranges_stand_in_the_file(digits, tmp_path):
    data, _ = digits
    path = tmp_path / "static.onnx"
    report = onnxquant.quantize(MODEL, path, data=data, tune_epochs=4, threads=1, proof=False, **WAYS["static"])
    model = onnx.load(path)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    recorded = report.activations.tensors
    scales = {n.input[1]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert recorded and scales
    for name, codes in recorded.items():
        if f"{name}/scale" in constants:
            assert constants[f"{name}/scale"] == pytest.approx(codes.scale, rel=1e-6)


def test_what_gains_nothing_is_not_taken(digits, tmp_path):
    data, _ = digits
    plain, tuned = tmp_path / "plain.onnx", tmp_path / "tuned.onnx"
    onnxquant.quantize(MODEL, plain, data=data, format="q4_0", proof=False)
    report = onnxquant.quantize(
        MODEL, tuned, data=data, format="q4_0", tune_epochs=1, tune_loss=worse, threads=1, proof=False
    )
    assert not report.tuning.gained
    weights = [[t.raw_data for t in onnx.load(path).graph.initializer] for path in (plain, tuned)]
    assert weights[0] == weights[1]


def test_a_time_ends_the_run(digits, tmp_path):
    for seconds in ("1s", "3s"):
        report = onnxquant.quantize(
            MODEL, tmp_path / f"{seconds}.onnx", data=digits[0], format="q4_0", tune=seconds, threads=1, proof=False
        )
        assert report.tuning.course[0].step == 0
        assert report.tuning.seconds < 60


def test_weights_that_lie_on_a_grid_learn_too(digits, tmp_path):
    """Their codes are the first that a file gets, unless something was learned."""
    model = onnx.load(MODEL)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 2:
            on_grid = (np.rint(values * 8).clip(-8, 7) / 8).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(on_grid, tensor.name))
    onnx.save(model, tmp_path / "grid.onnx")
    files = [tmp_path / "plain.onnx", tmp_path / "tuned.onnx"]
    onnxquant.quantize(tmp_path / "grid.onnx", files[0], data=digits[0], format="int4", proof=False)
    module = training.prepare(tmp_path / "grid.onnx", format="int4")
    with torch.no_grad():
        for entry in module.learned():
            entry.values.mul_(1.5)
    training.export(module, files[1])
    weights = [[t.raw_data for t in onnx.load(path).graph.initializer] for path in files]
    assert weights[0] != weights[1]


def worse(student, teacher):
    """A loss that falls as outputs part from the teacher's."""
    return -torch.stack([(student[name] - teacher[name]).square().mean() for name in teacher]).mean()


def nothing(student, teacher):
    return torch.stack([student[name].mean() for name in student]).sum() * float("nan")


def test_a_loss_that_is_no_number_is_an_error_with_its_step(digits, tmp_path):
    with pytest.raises(WeightError, match="the loss is not finite before the first step"):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune_epochs=1, tune_loss=nothing)
    assert not (tmp_path / "x.onnx").exists()


def test_an_interrupted_run_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    from onnxquant.tuning import run as runs

    class Interrupted(Exception):
        pass

    learn, steps = runs.Run._learn, []

    def counted(self, batch, stretch):
        steps.append(self.course.steps)
        if len(steps) == 20:
            raise Interrupted
        learn(self, batch, stretch)

    settings = {"data": digits[0], "format": "q4_0", "tune_epochs": 3, "threads": 1, "proof": False}
    onnxquant.quantize(MODEL, tmp_path / "whole.onnx", **settings)
    monkeypatch.setattr(runs.Run, "_learn", counted)
    monkeypatch.setattr(runs, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(runs, "_SAVING", 1e9)
    with pytest.raises(Interrupted):
        onnxquant.quantize(MODEL, tmp_path / "two.onnx", work=str(tmp_path / "work"), **settings)
    report = onnxquant.quantize(MODEL, tmp_path / "two.onnx", work=str(tmp_path / "work"), **settings)
    assert steps[20] == 19  # nothing is learned twice
    assert report.tuning.steps == 36
    weights = [[t.raw_data for t in onnx.load(tmp_path / f"{n}.onnx").graph.initializer] for n in ("whole", "two")]
    assert weights[0] == weights[1]
    # A run that is over is not learned again.
    onnxquant.quantize(MODEL, tmp_path / "three.onnx", work=str(tmp_path / "work"), **settings)
    assert len(steps) == 20 + 1 + 36 - 19 - 1


def test_a_trial_of_few_steps_is_the_only_one(digits, tmp_path, monkeypatch):
    from onnxquant.tuning import run as runs

    rates, learn = [], runs.Run._run

    def noted(self, stretch):
        rates.append(stretch.rate)
        learn(self, stretch)

    monkeypatch.setattr(runs.Run, "_run", noted)
    monkeypatch.setattr(runs.Run, "_seconds", lambda self: 0.1 * self.course.steps)  # a step takes 0.1 s
    onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune="2s", threads=1, proof=False)
    assert set(rates) == {1e-4}


def test_a_time_that_is_half_over_before_the_first_trial_takes_the_first_rate(digits, tmp_path, monkeypatch):
    from onnxquant.tuning import run as runs

    monkeypatch.setattr(runs.Run, "_seconds", lambda self: 1.5 + 0.1 * self.course.steps)
    report = onnxquant.quantize(
        MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune="2s", threads=1, proof=False
    )
    assert report.tuning.steps == 5


def test_refusals(digits, tmp_path):
    few = tmp_path / "few.npz"
    np.savez(few, image=np.zeros((9, 1, 1, 28, 28), np.float32))
    with pytest.raises(FeedError, match="samples to learn from"):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=few, format="q4_0", tune="1s")
    with pytest.raises(RecipeError, match="tune and tune_epochs"):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune="1s", tune_epochs=1)
    with pytest.raises(RecipeError, match="tune_seed: has no effect without --tune"):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune_seed=1)
    with pytest.raises(FeedError, match="tune: has no effect without samples"):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", format="q4_0", tune="1s")
    assert not (tmp_path / "x.onnx").exists()


def test_an_operator_without_a_torch_function_is_named(digits, tmp_path):
    model = onnx.load(MODEL)
    output = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Bernoulli", ["before"], [output], name="coin"))
    path = tmp_path / "coin.onnx"
    model.opset_import[0].version = max(model.opset_import[0].version, 15)
    onnx.save(model, path)
    with pytest.raises(ModelError, match="Bernoulli"):
        onnxquant.quantize(path, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune_epochs=1)


def test_the_command_line_shows_what_was_gained(digits, tmp_path):
    options = ["--format", "q4_0", "--data", digits[0], "--tune-epochs", 2, "--threads", 1, "--no-proof"]
    reports = ["--report", tmp_path / "r.html", "--report", tmp_path / "r.json"]
    done = run("quantize", MODEL, "-o", tmp_path / "x.onnx", *options, *reports)
    assert done.exit_code == 0, done.output
    assert "tuned" in done.stdout
    assert "dB on the" in done.stdout
    tuning = json.loads((tmp_path / "r.json").read_text())["tuning"]
    assert tuning["course"][0]["learning"] is None
    page = (tmp_path / "r.html").read_text()
    assert "<h2>Tuning</h2>" in page
    assert "held out" in page


def failing(student, teacher):
    return student["no such output"]


def constant(student, teacher):
    return torch.zeros(())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (failing, "fails with KeyError"),
        (constant, "does not depend on the outputs"),
        (lambda student, teacher: 0.0, "gives float, expected a scalar tensor"),
        ("no_such_module:loss", "tune_loss "),
        ("math:pi", "tune_loss math:pi: is no function"),
    ],
)
def test_a_loss_that_fails_is_an_error_of_ours(loss, message, digits, tmp_path):
    with pytest.raises(RecipeError, match=message):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune_epochs=1, tune_loss=loss)
    assert not (tmp_path / "x.onnx").exists()


def test_a_model_that_does_not_fit_into_memory_is_refused(digits, tmp_path, monkeypatch):
    from onnxquant.convert import tune

    monkeypatch.setattr(tune, "_COPIES", 1 << 40)
    with pytest.raises(ModelError, match=r"tune takes about .* GB"):
        onnxquant.quantize(MODEL, tmp_path / "x.onnx", data=digits[0], format="q4_0", tune_epochs=1)
