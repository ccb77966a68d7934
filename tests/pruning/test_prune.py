"""Pruned files from end to end: zeros where they belong, in floats and in codes, and nothing said that is not so."""

import graphs
import numpy as np
import onnx
import pytest
from commands import refused, run
from onnx import numpy_helper

import onnxquant
from onnxquant.errors import ModelError, RecipeError
from onnxquant.graph.io import load
from onnxquant.inspect.validate import validate
from onnxquant.validation.outputs import Run

MODEL = "models/default.onnx"


def weights_of(path):
    """Decoded weights by name."""
    floats = path.with_suffix(".floats.onnx")
    onnxquant.dequantize(path, floats, force=True)
    document = load(floats)
    return {t.name: document.array(t) for t in document.proto.graph.initializer}


def array_of(path, name):
    document = load(path)
    return next(document.array(t) for t in document.proto.graph.initializer if t.name == name)


@pytest.fixture(scope="module")
def correlated(tmp_path_factory):
    """A product, and samples whose inputs depend on each other: what stays can take over for what goes."""
    path = graphs.save(graphs.gemm(96, 64, alpha=1.0, beta=1.0), tmp_path_factory.mktemp("product") / "m.onnx")
    samples = graphs.rng(2).standard_normal((96, 12)) @ graphs.rng(3).standard_normal((12, 96))
    np.savez(path.with_name("samples.npz"), x=(samples * np.geomspace(0.1, 3, 96)).astype(np.float32))
    return path


def test_half_of_the_weights_alone_become_zero_in_a_file_of_floats(tmp_path):
    path, out = graphs.save(graphs.matmul(), tmp_path / "m.onnx"), tmp_path / "p.onnx"
    report = onnxquant.quantize(path, out, prune=0.5, format="f32")
    before, after = (numpy_helper.to_array(onnx.load(p).graph.initializer[0]) for p in (path, out))
    order = np.argsort(np.abs(before), axis=None, kind="stable")
    expected = before.copy()
    expected.flat[order[: round(before.size / 2)]] = 0
    np.testing.assert_array_equal(after, expected)
    assert report.proof.problems == []
    assert report.pruning.zeros == round(before.size / 2)
    assert report.pruning.compressed.output < report.pruning.compressed.original
    assert validate(path, out).problems == []


def test_zeros_of_floats_beside_codes_are_no_error_of_nodes(tmp_path):
    names = (("MatMul", ["x", "w"], ["a"]), ("Relu", ["a"], ["b"]), ("MatMul", ["b", "v"], ["y"]))
    nodes = [graphs.node(*name) for name in names]
    weights = {"w": graphs.weight(48, 64, seed=1), "v": graphs.weight(64, 32, seed=2)}
    proto = graphs.model(nodes, {"x": ("float32", ["batch", 48])}, {"y": "float32"}, weights)
    path, out = graphs.save(proto, tmp_path / "m.onnx"), tmp_path / "p.onnx"
    onnxquant.quantize(path, out, recipe={"rules": [{"include": "w", "keep": True, "prune": 0.5}], "format": "int8"})
    again = validate(path, out)
    twin = [error.sqnr_db for error in again.proof.errors(Run.TWIN, Run.EXACT).values()]
    assert again.problems == []
    assert min(twin) > 100


@pytest.mark.parametrize("way", [{"format": "int8"}, {"bits": 4}, {"format": "q8_0"}, {"format": "int4", "symmetric": False}])
def test_zeros_of_two_of_four_are_exact_zeros_of_the_codes(way, tmp_path):
    path, out = graphs.save(graphs.gemm(96, 64), tmp_path / "m.onnx"), tmp_path / "p.onnx"
    report = onnxquant.quantize(path, out, prune="2:4", **way)
    assert report.proof.problems == []
    name = report.sites[0].decision.name
    original = load(path)
    before = next(original.array(t) for t in original.proto.graph.initializer if t.name == name)
    zeros = (weights_of(out)[name] == 0).reshape(64, -1, 4)
    assert (zeros.sum(-1) >= 2).all()
    smallest = np.argsort(np.abs(before.reshape(64, -1, 4)), axis=-1)[..., :2]
    assert np.take_along_axis(zeros, smallest, -1).all()
    assert validate(path, out).proof.problems == []


def test_weights_whose_zeros_came_back_fail_the_proof(tmp_path, monkeypatch):
    path, out = graphs.save(graphs.matmul(), tmp_path / "m.onnx"), tmp_path / "p.onnx"
    # As if a solver had no regard for zeros.
    monkeypatch.setattr("onnxquant.solvers.jobs.Task.solve", lambda task: task.format.encode(np.asarray(task.weight) + 0.02))
    report = onnxquant.quantize(path, out, prune=0.5, format="int4", solver="mse")
    assert any("of its pruned elements are no zeros" in problem for problem in report.problems)
    assert any("zeros, expected 960" in problem for problem in validate(path, out).problems)


def test_gptq_on_pruned_weights_keeps_them_zero(correlated, tmp_path):
    path, out = correlated, tmp_path / "p.onnx"
    report = onnxquant.quantize(
        path, out, prune="0.5", prune_score="wanda", bits=4, data=path.with_name("samples.npz"), samples=4
    )
    assert report.problems == []
    assert report.encoded[0].decision.solver == "gptq"
    weight = array_of(path, report.encoded[0].decision.name)
    samples = np.load(path.with_name("samples.npz"))["x"].astype(np.float64)
    # Samples that the proof runs on are not among those that calibrate: norms are nearly those of all.
    score = np.abs(weight) * np.linalg.norm(samples, axis=0)
    gone = weights_of(out)[report.encoded[0].decision.name] == 0
    assert (gone.sum(1) >= 48).all()
    lowest = np.argsort(score, axis=1)[:, :40]
    assert np.take_along_axis(gone, lowest, 1).mean() > 0.98


@pytest.mark.parametrize(
    "way",
    [
        {"activations": "static", "time": "1s"},
        {"bits": 4, "tune_epochs": 4},
        {"bits": 4, "symmetric": False, "tune_epochs": 4},
    ],
    ids=["static", "tuned", "tuned with zero points"],
)
def test_static_activations_and_tuning_leave_zeros_where_they_are(way, correlated, tmp_path):
    path, out = correlated, tmp_path / "p.onnx"
    report = onnxquant.quantize(path, out, prune="2:4", data=path.with_name("samples.npz"), threads=1, **way)
    assert report.problems == []
    assert report.tuning is None or report.tuning.gained
    name = report.encoded[0].decision.name
    before = array_of(path, name)
    smallest = np.argsort(np.abs(before.reshape(64, -1, 4)), axis=-1)[..., :2]
    assert not np.take_along_axis(weights_of(out)[name].reshape(64, -1, 4), smallest, -1).any()


def test_rules_prune_their_own_weights(tmp_path):
    path, out = graphs.save(graphs.tied(), tmp_path / "m.onnx"), tmp_path / "p.onnx"
    with pytest.raises(ModelError, match="nothing to prune: 1 a table that is looked up, too, such as"):
        onnxquant.quantize(path, out, prune=0.5)
    out = tmp_path / "d.onnx"
    recipe = {"rules": [{"role": "conv", "prune": "0.5"}], "format": "int8"}
    report = onnxquant.quantize(MODEL, out, recipe=recipe, proof=False)
    convs = [s for s in report.sites if "conv" in s.decision.role and s.decision.format]
    assert 0 < report.pruning.weights <= len(convs)
    others = sum(left.count for left in report.pruning.left)
    assert others + report.pruning.weights == len([s for s in report.sites if s.decision.role])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": "0.5", "format": "q4_k"}, "format q4_k has no exact zero, so that pruned weights would come back; int4"),
        ({"prune": "0.5", "prune_score": "wanda"}, "prune_score wanda needs samples .* give --data"),
        ({"prune_score": "wanda"}, "prune_score: has no effect without --prune"),
        ({"prune": "0.5", "goal": "fast"}, "prune: .* leave out one of the two"),
    ],
)
def test_pruning_options_that_contradict_each_other_are_refused(options, message, tmp_path):
    path = graphs.save(graphs.matmul(), tmp_path / "m.onnx")
    with pytest.raises(RecipeError, match=message):
        onnxquant.quantize(path, tmp_path / "out.onnx", **options)
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_prints_sparsity_and_that_speed_stays(tmp_path):
    path = graphs.save(graphs.matmul(), tmp_path / "m.onnx")
    result = run("quantize", path, "-o", tmp_path / "out.onnx", "--prune", "0.5", "--report", tmp_path / "r.json")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    assert "50.0 % of the elements of 1 weights are zero by magnitude" in text
    assert "the zeros change no speed on onnxruntime, which has no sparse kernels" in text
    report = onnxquant.Report.load(tmp_path / "r.json")
    assert report.pruning.zeros * 2 == report.pruning.elements
    refused(run("quantize", path, "-o", tmp_path / "b.onnx", "--prune", "3:4"), "prune is '3:4'", "2:4")
