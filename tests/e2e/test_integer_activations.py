"""``quantize --activations`` end to end: the default model and small ones, every type and method, files and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from agreement import products_saturate
from graphs import node, weight
from rounded import marked, sqnr_db

import onnxquant
from onnxquant.activations import search, time_budget
from onnxquant.artifact.records import activation_record, records
from onnxquant.calibration import gram_matrices as grams
from onnxquant.errors import ModelError, RecipeError
from onnxquant.formats.integers import Int8
from onnxquant.graph.traverse import nodes as all_nodes
from onnxquant.inspect.info import ActivationInfo
from onnxquant.observers import ranging
from onnxquant.plan.activations import SampleUse
from onnxquant.recipe.values import Effort
from onnxquant.report import rows
from onnxquant.report.report import Report
from onnxquant.validation.saturation import SATURATED_DB

DATA = Path(__file__).resolve().parents[2] / "models" / "default_test.npz"


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(DATA) as data:
        return (data["image"][:1000].astype(np.float32) / 255)[:, None], data["label"][:1000]


def small(opset: int = 17) -> onnx.ModelProto:
    """Conv -> Relu -> depthwise Conv -> Clip -> residual Add -> pooling -> Gemm, with BatchNormalization to fold."""
    constants = {
        "w": 4 * weight(32, 3, 3, 3),
        "p": 2 * weight(32, 32, 1, 1, seed=2),
        "d": 4 * weight(32, 1, 3, 3, seed=1),
        "q": 2 * weight(32, 32, 1, 1, seed=6),
        "g": 2 * weight(32 * 16, 10, seed=3),
        "c": weight(10, seed=4),
        "low": np.float32(0),
        "high": np.float32(6),
        **{k: np.abs(weight(32, seed=5)) + np.float32(k != "mean") / 2 for k in ("scale", "bias", "mean", "var")},
    }
    made = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "scale", "bias", "mean", "var"], ["n"]),
        node("Relu", ["n"], ["b"]),
        node("Conv", ["b", "p"], ["e"]),
        node("Clip", ["e", "low", "high"], ["f"]),
        node("Conv", ["f", "d"], ["h"], group=32, pads=[1, 1, 1, 1]),
        node("Add", ["b", "h"], ["r"]),
        node("MaxPool", ["r"], ["s"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["s", "q"], ["t"], strides=[2, 2]),
        node("Flatten", ["t"], ["u"]),
        node("Gemm", ["u", "g", "c"], ["y"]),
    ]
    proto = graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, {"y": "float32"}, constants, opset)
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["batch", 10]))
    return proto


SAMPLES = graphs.rng(11).standard_normal((24, 3, 16, 16)).astype(np.float32)


def save(tmp_path: Path, proto: onnx.ModelProto | None = None, **options: Any) -> tuple[Path, Path]:
    np.savez(tmp_path / "data.npz", x=SAMPLES)
    return graphs.save(proto or small(), tmp_path / "model.onnx", **options), tmp_path / "data.npz"


def run(
    path: Path, x: np.ndarray[Any, Any] = SAMPLES, *, optimize: bool = True, precise: bool = True
) -> np.ndarray[Any, Any]:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    # What a file holds is tested here, not what x86 CPUs without VNNI lose of it.
    settings.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    if not optimize:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))])


def static(tmp_path: Path, **options: Any) -> tuple[Report, Path, Path]:
    model, data = save(tmp_path)
    output = tmp_path / "out.onnx"
    given = {"calibration_method": "minmax", "smooth": False, "equalize": False, "data": str(data), **options}
    return onnxquant.quantize(model, output, **given), model, output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Path]:
    """The small model with static activations: report, original, output."""
    return static(tmp_path_factory.mktemp("made"), activations="static")


def test_the_default_model_keeps_its_accuracy(default_model: Path, images: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    before = default_model.read_bytes()
    np.savez(tmp_path / "data.npz", image=images[0][:32])
    plain = {"smooth": False, "equalize": False}
    report = onnxquant.quantize(default_model, output, activations="static", data=str(tmp_path / "data.npz"), **plain)
    assert report.passed, report.proof and report.proof.problems
    assert default_model.read_bytes() == before
    onnx.checker.check_model(str(output), full_check=True)
    assert report.predicted_bytes == pytest.approx(report.output_bytes, rel=0.01)
    assert report.original_bytes / output.stat().st_size > 3.3
    logits = ort.InferenceSession(output).run(None, {"image": images[0]})[0]
    assert (logits.argmax(1) == images[1]).mean() >= 0.98
    assert report.proof
    db = report.proof.outputs["float vs deployed"]["logits"].sqnr_db
    assert 21 < db < 50
    kernels = report.proof.kernels.stock
    assert kernels["com.microsoft.QLinearConv"] == 3
    assert kernels["com.microsoft.QGemm"] + kernels["com.microsoft.MatMulIntegerToFloat"] == 8
    assert "Relu" not in kernels
    assert "minmax" in report.activations.tried
    assert len(report.proof.activations.conversions) == sum(
        kernels.get(f"{k}Linear", 0) for k in ("Quantize", "Dequantize")
    )
    saturation = report.proof.activations.saturation
    assert saturation["stem.conv"].sqnr_db > SATURATED_DB
    assert all(loss.sqnr_db > 30 for loss in saturation.values())


def test_dynamic_activations_of_the_default_model_keep_its_accuracy(
    default_model: Path, images: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    report = onnxquant.quantize(default_model, output, activations="dynamic", data=None)
    assert report.passed, report.proof and report.proof.problems
    logits = ort.InferenceSession(output).run(None, {"image": images[0][:200]})[0]
    assert (logits.argmax(1) == images[1][:200]).mean() >= 0.97
    assert {s.decision.target for s in report.encoded if s.decision.role in ("matmul", "gemm")} == {"dynamic"}
    assert report.activations.kind == "dynamic" and report.activations.integer_kernels == 8
    (convs,) = [w for w in report.warnings if "ConvInteger" in w]
    assert "3 convolutions" in convs
    assert onnxquant.info(output).activations == ActivationInfo("dynamic", "uint8", integer_kernels=8, rescaled=0)
    assert report.proof and report.proof.activations.saturation
    back = tmp_path / "float.onnx"
    assert onnxquant.dequantize(output, back) == len(report.encoded)
    assert not {"DynamicQuantizeMatMul", "QuantizeLinear", "DequantizeLinear"} & {
        n.op_type for n in onnx.load(back).graph.node
    }


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, 30, 46),
        ({"activation_type": "int8"}, 30, 46),
        ({"symmetric_activations": True}, 25, 46),
        ({"activation_type": "int8", "symmetric_activations": True}, 25, 46),
        ({"activation_type": "uint16"}, 38, 60),
        ({"activation_type": "int16", "symmetric_activations": True}, 38, 60),
        ({"balance": False, "bias_correction": False}, 28, 46),
    ],
    ids=str,
)
def test_every_type_of_codes_keeps_its_accuracy(
    options: dict[str, Any], least: float, most: float, tmp_path: Path
) -> None:
    report, model, output = static(tmp_path, activations="static", proof=False, **options)
    proto = onnx.load(output)
    onnx.checker.check_model(proto, full_check=True)
    kinds = {t.name: onnx.helper.tensor_dtype_to_np_dtype(t.data_type) for t in proto.graph.initializer}
    assert {kinds[n.input[2]].name for n in marked(proto, "QuantizeLinear")} == {
        options.get("activation_type", "uint8")
    }
    expected, plain, fused = run(model), run(output, optimize=False), run(output)
    assert least < sqnr_db(expected, plain) < most
    assert least < sqnr_db(expected, fused) < most
    slow = [w for w in report.warnings if "slower" in w and "x64" not in w]
    assert bool(slow) == ("activation_type" in options)


def test_symmetric_codes_name_the_clamps_that_stay(tmp_path: Path) -> None:
    report, _, _ = static(tmp_path, activations="static", symmetric_activations=True)
    assert report.passed and report.proof
    assert report.proof.kernels.stock["Relu"] + report.proof.kernels.stock["Clip"] == 2
    assert any(w.startswith("2 Relu or Clip stay") for w in report.warnings)


@pytest.mark.parametrize("method", sorted(ranging()))
def test_every_calibration_method_is_accepted(method: str, tmp_path: Path) -> None:
    report, model, output = static(tmp_path, activations="static", calibration_method=method, proof=False)
    assert report.activations.method == method
    assert 18 < sqnr_db(run(model), run(output)) < 46


def test_files_describe_their_activations_and_dequantize_to_floats(
    made: tuple[Report, Path, Path], tmp_path: Path
) -> None:
    report, model, output = made
    record = activation_record(onnx.load(output))
    assert record == report.activations
    assert set(record.rescaled) and record.biases_corrected == 5
    short = onnxquant.info(output).activations
    assert short.integer_kernels == 5 and short.left_in_float == 0
    assert short.rescaled == len(record.rescaled) and short.method == "minmax"
    assert all(onnxquant.verify(output).values())
    back = tmp_path / "float.onnx"
    onnxquant.dequantize(output, back)
    proto = onnx.load(back)
    onnx.checker.check_model(proto, full_check=True)
    assert not any("uantizeLinear" in n.op_type for n in all_nodes(proto))
    assert not any(t.name.endswith(("/scale", "/zero_point")) for t in proto.graph.initializer)
    # Near the original: weights in 8 bits are left of the error, and the means that biases take up.
    assert 33 < sqnr_db(run(model), run(back)) < 55
    # The twin of the proof is the same function, computed in another way.
    assert report.proof and report.proof.feeds and report.proof.unseen
    twin = report.proof.outputs["float vs twin"]["y"].sqnr_db
    assert twin == pytest.approx(sqnr_db(run(model), run(back)), abs=0.01)


def test_validating_a_file_explains_rescaled_weights(made: tuple[Report, Path, Path]) -> None:
    report, model, output = made
    data = str(model.with_name("data.npz"))
    again = onnxquant.validate(model, output, data)
    assert again.passed, again.proof and again.proof.problems
    assert again.proof and report.proof
    assert any("rescaled by calibration" in note for note in again.proof.notes)
    for pair in ("float vs twin", "float vs deployed"):
        read, wrote = again.proof.outputs[pair]["y"], report.proof.outputs[pair]["y"]
        assert read.sqnr_db == pytest.approx(wrote.sqnr_db, abs=0.01)
    for name, proof in again.proof.weights.items():
        assert 35 < proof.error.sqnr_db < 60, name
        assert proof.error.sqnr_db == pytest.approx(report.proof.weights[name].error.sqnr_db, abs=1.5)
    assert again.activations == report.activations


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_smoothed_functions_are_reported_and_validated(kind: str, tmp_path: Path) -> None:
    """Channels of very unequal size: smoothing wins, and the file's weights are not the original's."""
    x = graphs.rng(4).standard_normal((24, 5, 48)).astype(np.float32)
    sizes = np.geomspace(0.01, 30, 48).astype(np.float32)
    made = [node("Mul", ["x", "sizes"], ["scaled"]), node("MatMul", ["scaled", "w"], ["y"], name="product")]
    constants = {"sizes": sizes, "w": (weight(48, 40) / sizes[:, None]).astype(np.float32)}
    proto = graphs.model(made, {"x": ("float32", ["batch", 5, 48])}, {"y": "float32"}, constants)
    model, data = graphs.save(proto, tmp_path / "model.onnx"), tmp_path / "data.npz"
    np.savez(data, x=x)
    output = tmp_path / "out.onnx"
    given = {"activations": kind, "data": str(data), "proof": False}
    given |= {"calibration_method": "minmax"} if kind == "static" else {}
    onnxquant.quantize(model, tmp_path / "plain.onnx", smooth=False, **given)
    report = onnxquant.quantize(model, output, **given)
    assert report.activations.rescaled == ("w",)
    assert sqnr_db(run(model, x), run(output, x)) > sqnr_db(run(model, x), run(tmp_path / "plain.onnx", x)) + 6
    again = onnxquant.validate(model, output, str(data))
    assert again.passed, again.proof and again.proof.problems
    assert again.proof and again.proof.weights["w"].error.sqnr_db > 30
    assert again.proof.outputs["float vs twin"]["y"].sqnr_db > 30
    assert onnxquant.info(output).activations.rescaled == 1
    onnxquant.dequantize(output, tmp_path / "float.onnx")
    assert sqnr_db(run(model, x), run(tmp_path / "float.onnx", x)) > 30


def inverted_residuals() -> onnx.ModelProto:
    """Two blocks whose narrow tensors have channels of very unequal size, and a head."""
    sizes = np.geomspace(0.02, 6, 12)[:, None, None, None]
    constants = {
        "stem": (4 * weight(12, 3, 3, 3) * sizes).astype(np.float32),
        "up": (3 * weight(48, 12, 1, 1, seed=1) / sizes[:, 0]).astype(np.float32),
        "deep": 4 * weight(48, 1, 3, 3, seed=2),
        "down": (2 * weight(12, 48, 1, 1, seed=3) * sizes).astype(np.float32),
        "top": (3 * weight(32, 12, 1, 1, seed=4) / sizes[:, 0]).astype(np.float32),
        "head": weight(32, 10, seed=5),
    }
    made = [
        node("Conv", ["x", "stem"], ["a"], pads=[1, 1, 1, 1]),
        node("Conv", ["a", "up"], ["b"]),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "deep"], ["d"], group=48, pads=[1, 1, 1, 1]),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "down"], ["f"]),
        node("Add", ["a", "f"], ["g"]),
        node("Conv", ["g", "top"], ["h"]),
        node("Relu", ["h"], ["i"]),
        node("GlobalAveragePool", ["i"], ["j"]),
        node("Flatten", ["j"], ["k"]),
        node("Gemm", ["k", "head"], ["y"]),
    ]
    proto = graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, {"y": "float32"}, constants)
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["batch", 10]))
    return proto


def test_rebased_functions_are_reported_validated_and_changed_further(tmp_path: Path) -> None:
    model, data = save(tmp_path, inverted_residuals())
    given = {"activations": "static", "calibration_method": "minmax", "data": str(data), "solver": "rtn", "balance": False}
    output, plain = tmp_path / "out.onnx", tmp_path / "plain.onnx"
    without = onnxquant.quantize(model, plain, rebase=False, **given)
    labels = list(without.activations.variants)
    assert labels[0] == "as it is" and "rebased" not in labels
    report = onnxquant.quantize(model, output, **given)
    assert report.proof and report.proof.problems == []
    variants = report.activations.variants
    assert variants["as it is"] == without.activations.variants["as it is"]
    assert variants["rebased"] > variants["as it is"] + 3
    assert list(variants) == ["as it is", "rebased", *(f"rebased, {label}" for label in labels[1:])]
    assert variants["rebased, equalized"] > without.activations.variants["equalized"] + 3
    assert sqnr_db(run(model), run(output)) > sqnr_db(run(model), run(plain)) + 3
    assert {"stem", "up", "down", "top"} <= set(report.activations.rescaled)
    again = onnxquant.validate(model, output, str(data))
    assert again.proof and again.proof.problems == []
    few = {**given, "balance": True, "smooth": False, "equalize": False}
    wider = onnxquant.quantize(model, output, force=True, proof=False, **few)
    assert list(wider.activations.variants)[:2] == ["as it is", "balanced"]
    assert list(wider.activations.variants)[-1].endswith("rebased")


def test_a_basis_is_judged_by_samples_that_have_not_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = save(tmp_path, inverted_residuals())
    (tmp_path / "samples").mkdir()
    for index, texture in enumerate(graphs.rng(8).standard_normal((5, 3, 4, 4)).astype(np.float32)):
        np.savez(tmp_path / "samples" / f"{index}.npz", x=np.tile(texture, (1, 1, 4, 4)) * 2)
    samples = str(tmp_path / "samples")
    given = {"activations": "static", "calibration_method": "minmax", "data": samples, "solver": "rtn"}
    given |= {"balance": False, "smooth": False, "equalize": False, "proof": False, "force": True}
    honest = onnxquant.quantize(model, tmp_path / "a.onnx", **given).activations.variants
    monkeypatch.setattr(search.StaticSearch, "_refitted", lambda *_: ())
    shared = onnxquant.quantize(model, tmp_path / "b.onnx", **given).activations.variants
    assert honest["as it is"] == shared["as it is"]
    assert honest["rebased"] < shared["rebased"] - 0.2


def test_static_activations_with_external_data(tmp_path: Path) -> None:
    model, data = save(tmp_path, external=True)
    output = tmp_path / "out.onnx"
    plain = {"calibration_method": "minmax", "smooth": False, "equalize": False, "proof": False}
    report = onnxquant.quantize(model, output, activations="static", data=str(data), **plain)
    assert report.external_data
    assert (tmp_path / "out.bin").exists()
    assert 30 < sqnr_db(run(model), run(output)) < 46
    onnxquant.dequantize(output, tmp_path / "float.onnx")
    assert sqnr_db(run(model), run(tmp_path / "float.onnx")) > 33


def test_dequantizing_keeps_names_that_a_nested_graph_reads(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    branches = [
        onnx.helper.make_graph([node(op, ["a"], [name])], name, [], [info(name, 1, [None] * 4)])
        for op, name in (("Neg", "t"), ("Abs", "e"))
    ]
    made = [
        node("Conv", ["x", "w"], ["a"]),
        node("Conv", ["a", "v"], ["b"]),
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "m"], ["never"]),
        node("If", ["never"], ["c"], then_branch=branches[0], else_branch=branches[1]),
    ]
    constants = {"w": 4 * weight(32, 3, 3, 3), "v": 4 * weight(32, 32, 1, 1)}
    outputs = {"a": "float32", "b": "float32", "c": "float32"}
    proto = graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, outputs, constants)
    for given in proto.graph.output:
        given.CopyFrom(info(given.name, 1, [None] * 4))
    model, data = save(tmp_path, proto)
    output, back = tmp_path / "out.onnx", tmp_path / "float.onnx"
    plain = {"calibration_method": "minmax", "smooth": False, "equalize": False, "proof": False}
    onnxquant.quantize(model, output, activations="static", data=str(data), **plain)
    onnxquant.dequantize(output, back)
    onnx.checker.check_model(str(back), full_check=True)
    session = ort.InferenceSession(back)
    a, _, c = session.run(None, {"x": SAMPLES[:1]})
    assert np.array_equal(c, np.abs(a))
    assert 35 < sqnr_db(run(model), run(back)) < 60


def test_shared_weights_stay_shared_or_in_float(tmp_path: Path) -> None:
    made = [
        node("Flatten", ["x"], ["f"]),
        node("MatMul", ["f", "w"], ["a"]),
        node("MatMul", ["a", "v"], ["b"]),
        node("MatMul", ["b", "v"], ["c"]),
        node("Transpose", ["v"], ["vt"], perm=[1, 0]),
        node("MatMul", ["c", "vt"], ["y"]),
    ]
    constants = {"w": weight(768, 64), "v": weight(64, 64)}
    proto = graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, {"y": "float32"}, constants)
    model, data = save(tmp_path, proto)
    output = tmp_path / "out.onnx"
    plain = {"calibration_method": "minmax", "smooth": False, "equalize": False, "proof": False}
    onnxquant.quantize(model, output, activations="static", data=str(data), **plain)
    # onnxruntime cannot widen a weight that two kernels share.
    db = sqnr_db(run(model, precise=False), run(output, precise=False))
    assert (18 if products_saturate() else 25) < db < 50


def test_without_time_the_first_candidate_is_written_and_the_report_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_budget, "_SECONDS", {Effort.MEDIUM: 0.0})
    monkeypatch.setattr(time_budget, "_PASSES", {Effort.MEDIUM: 0})
    options = {"calibration_method": "auto", "auto_exclude": True, "min_sqnr": 60.0}
    report, model, output = static(tmp_path, activations="static", **options)
    record = report.activations
    assert record.integer_kernels == 5 and not record.excluded and list(record.tried) == ["minmax"]
    *skipped, room, exclusion = record.skipped
    assert skipped == ["mse", "percentile", "balanced", "solved weights"]
    assert (room, exclusion) == ("weights for CPUs without VNNI", "more kernels in float")
    assert sqnr_db(run(model), run(output)) > 20


def test_stronger_smoothing_is_not_tried_where_a_weaker_one_loses(tmp_path: Path) -> None:
    faint = 4 * weight(768, 64) * np.geomspace(1e-3, 1, 768, dtype=np.float32)[:, None]
    made = [node("Flatten", ["x"], ["f"]), node("Relu", ["f"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    proto = graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, {"y": "float32"}, {"w": faint})
    model, data = save(tmp_path, proto)
    plain = {"calibration_method": "minmax", "equalize": False, "solver": "rtn", "proof": False}
    report = onnxquant.quantize(model, tmp_path / "out.onnx", activations="static", data=str(data), **plain)
    scores = report.activations.variants
    assert list(scores) == ["as it is", "smoothed by 0.7"] and scores["smoothed by 0.7"] < scores["as it is"] < 40


def test_kernels_that_share_a_weight_load_with_exact_products(tmp_path: Path) -> None:
    made = [
        node("Conv", ["x", "w"], ["a"]),
        node("Conv", ["a", "v"], ["b"]),
        node("Conv", ["b", "v"], ["c"]),
        node("Conv", ["c", "v"], ["y"]),
    ]
    constants = {"w": 4 * weight(32, 3, 3, 3), "v": 4 * weight(32, 32, 1, 1)}
    proto = graphs.model(made, {"x": ("float32", ["batch", 3, 16, 16])}, {"y": "float32"}, constants)
    model, data = save(tmp_path, proto)
    output, back = tmp_path / "out.onnx", tmp_path / "float.onnx"
    plain = {"calibration_method": "minmax", "smooth": False, "equalize": False}
    report = onnxquant.quantize(model, output, activations="static", data=str(data), proof=False, **plain)
    assert report.activations.integer_kernels == 4
    assert 25 < sqnr_db(run(model), run(output)) < 50
    sizes = [t.dims for t in onnx.load(output).graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sorted(map(list, sizes))[-2:] == [[32, 3, 3, 3], [32, 32, 1, 1]] and len(sizes) == 4
    onnxquant.dequantize(output, back)
    assert sqnr_db(run(model), run(back)) > 35


def stored_codes(path: Path) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Codes and scales of each weight."""
    proto = onnx.load(path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    planes = {r.name: r.planes["channels"] for r in records(proto)}
    return {name: (tensors[p["codes"]], tensors[p["scales"]]) for name, p in planes.items()}


def test_solved_weights_lose_less_than_rounded_ones(tmp_path: Path) -> None:
    # Neighbours alike, as in pictures; 16-bit activations: what is lost is the weights'.
    noise = graphs.rng(21).standard_normal((96, 3, 20, 20)).astype(np.float32)
    pictures = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), (2, 3)).mean((4, 5)) * 4
    seen, fresh = pictures[:64], pictures[64:]
    kind = {"activations": "static", "activation_type": "uint16", "data": {"x": seen}}
    made = {}
    for solver in ("rtn", "gptq"):  # neither is chosen by its score: ranges are of the same samples
        (tmp_path / solver).mkdir()
        made[solver] = static(tmp_path / solver, solver=solver, balance=False, **kind)
    (plain, model, nearest), (report, _, output) = made["rtn"], made["gptq"]
    assert report.passed, report.proof and report.proof.problems
    assert (
        plain.activations.solver is None and report.activations.solver == "gptq" and report.activations.not_solved == ()
    )
    scores = report.activations.variants
    assert scores["solved by gptq"] > scores["as it is"] and set(plain.activations.variants) == {"as it is"}
    assert sqnr_db(run(model, fresh), run(output, fresh)) > sqnr_db(run(model, fresh), run(nearest, fresh)) + 1
    before, after = stored_codes(nearest), stored_codes(output)
    assert list(before) == list(after)
    for name, (codes, scales) in before.items():
        assert codes.dtype == after[name][0].dtype and np.array_equal(scales, after[name][1]), name
        assert not np.array_equal(codes, after[name][0]), name
    # What the report says of a weight is its distance from what is in the file.
    results = {s.decision.name: s for s in report.encoded}
    worse = [n for n, s in results.items() if s.error.sqnr_db < 30 or s.error.sqnr_db > 50]
    assert not worse
    rounded = {s.decision.name: s.error.sqnr_db for s in plain.encoded}
    assert all(s.error.sqnr_db < rounded[n] for n, s in results.items())
    assert onnxquant.validate(model, output, {"x": fresh}).passed
    assert all(onnxquant.verify(output).values())
    onnxquant.dequantize(output, tmp_path / "float.onnx")
    back = run(tmp_path / "float.onnx", fresh)
    assert sqnr_db(run(model, fresh), back) > sqnr_db(run(model, fresh), run(nearest, fresh)) + 1


def test_solver_rtn_writes_the_codes_of_the_format(tmp_path: Path) -> None:
    options = {"balance": False, "bias_correction": False}
    _, model, output = static(tmp_path, activations="static", solver="rtn", proof=False, **options)
    original = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    codes = stored_codes(output)
    for name in ("p", "d", "q"):
        rows = original[name].reshape(32, -1)
        encoded = Int8(per_channel=True).encode(rows)
        np.testing.assert_array_equal(codes[name][0].reshape(32, -1), encoded.planes["codes"].astype(int) - 128)


def test_kernels_left_in_float_keep_other_solved_weights(tmp_path: Path) -> None:
    bound = {"auto_exclude": True, "min_sqnr": 40.0}
    report, model, output = static(tmp_path, activations="static", solver="gptq", **bound)
    assert report.activations.solver == "gptq"
    left = report.activations.excluded
    assert 0 < len(left) < 5 and len(stored_codes(output)) == 5 - len(left)
    start = next(score for label, score in report.activations.variants.items() if label.endswith("solved by gptq"))
    assert sqnr_db(run(model), run(output)) > start + 1


def test_solver_auto_takes_solved_weights_that_score_better(tmp_path: Path) -> None:
    report, _, _ = static(tmp_path, activations="static", solver="auto")
    assert report.passed, report.proof and report.proof.problems
    scores = report.activations.variants
    *functions, solved = scores
    assert functions == ["as it is", "balanced", "balanced fully"][: len(functions)] and len(functions) > 1
    kept = max(functions, key=lambda label: scores[label])
    assert solved == ("solved by gptq" if kept == "as it is" else f"{kept}, solved by gptq")
    assert (report.activations.solver is not None) == (scores[solved] > scores[kept])
    assert report.activations.samples == SampleUse(calibrated=24, judged=24, apart=True, folds=4)
    assert set(report.activations.tried) == {"minmax"}


def test_weights_that_gptq_cannot_solve_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grams, "LARGEST", 8 * 500**2)
    (tmp_path / "plain").mkdir()
    _, _, nearest = static(tmp_path / "plain", activations="static", solver="rtn", proof=False)
    report, _, output = static(tmp_path, activations="static", solver="gptq")
    assert report.passed and report.activations.not_solved == ("g",)
    assert ("codes of weights", "gptq, 1 rounded to nearest") in rows.activations(report)
    assert dict(rows.activation_details(report.activations, None))["g"].startswith("rounded to nearest: ")
    before, after = stored_codes(nearest), stored_codes(output)
    assert [n for n in before if np.array_equal(before[n][0], after[n][0])] == ["g"]
    assert onnxquant.info(output).activations.solver == "gptq"


def test_gptq_without_samples_is_refused(tmp_path: Path) -> None:
    model, _ = save(tmp_path)
    with pytest.raises(RecipeError, match="solver gptq needs"):
        onnxquant.quantize(model, tmp_path / "out.onnx", solver="gptq")
    assert not (tmp_path / "out.onnx").exists()


# ---- products that see no rows ----


def routed() -> onnx.ModelProto:
    """Rows of x go to one of three experts, products of their own; none goes to the last one, whose number no row has."""
    weights = {f"{name}{i}": graphs.weight(*shape, seed=7 + i) for i in range(3) for name, shape in EXPERT.items()}
    constants = {"router": graphs.weight(32, 2, seed=3), "zero": np.float32(0), **weights}
    constants |= {f"number{i}": np.int64(i if i < 2 else 99) for i in range(3)}
    nodes = [node("MatMul", ["x", "router"], ["r"]), node("ArgMax", ["r"], ["who"], axis=-1, keepdims=0)]
    nodes.append(node("Mul", ["x", "zero"], ["sum0"]))
    for i in range(3):
        nodes += [
            node("Equal", ["who", f"number{i}"], [f"is{i}"]),
            node("NonZero", [f"is{i}"], [f"at{i}"]),
            node("Transpose", [f"at{i}"], [f"rows{i}"]),
            node("GatherND", ["x", f"rows{i}"], [f"in{i}"]),
            node("MatMul", [f"in{i}", f"up{i}"], [f"h{i}"]),
            node("Relu", [f"h{i}"], [f"hr{i}"]),
            node("Gemm", [f"hr{i}", f"down{i}", f"bias{i}"], [f"out{i}"]),
            node("ScatterND", [f"sum{i}", f"rows{i}", f"out{i}"], [f"sum{i + 1}"]),
        ]
    nodes.append(node("Identity", ["sum3"], ["y"]))
    return graphs.model(nodes, {"x": ("float32", ["n", 32])}, {"y": "float32"}, constants)


EXPERT = {"up": (32, 64), "down": (64, 32), "bias": (32,)}
NEVER = {"up2", "down2"}


@pytest.mark.parametrize(
    "options",
    [
        {"activations": "static"},
        {"activations": "dynamic"},
        {"format": "int4", "solver": "awq"},
        {"formats": ["int8", "int4"], "budget_bpw": 7.0},
    ],
    ids=["static", "dynamic", "awq", "bound"],
)
def test_products_without_rows_are_quantized_or_stay_in_float(options: dict[str, Any], tmp_path: Path) -> None:
    model = graphs.save(routed(), tmp_path / "model.onnx")
    data = [{"x": graphs.weight(5, 32, seed=i)} for i in range(8)]
    report = onnxquant.quantize(model, tmp_path / "out.onnx", data=data, **options)
    assert report.passed, report.proof and report.proof.problems
    assert {s.decision.name for s in report.encoded} >= NEVER  # their weights at least
    if options.get("activations") == "static":
        left = report.activations.left_in_float
        assert {name for name, reason in left.items() if "no sample has values" in reason} == {"h2", "out2"}
        assert report.activations.integer_kernels >= 4
    x = graphs.weight(40, 32, seed=99)
    assert sqnr_db(run(model, x), run(tmp_path / "out.onnx", x)) > (14 if "format" in options else 22)


def test_samples_that_reach_no_product_are_refused_with_the_reason(tmp_path: Path) -> None:
    model = graphs.save(graphs.matmul(k=32, n=64), tmp_path / "model.onnx")
    empty = [{"x": np.zeros((0, 3, 32), np.float32)} for _ in range(8)]
    with pytest.raises(ModelError, match=r"no op can compute on integers.*no sample has values there"):
        onnxquant.quantize(model, tmp_path / "out.onnx", data=empty, activations="static")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("solver", ["rtn", "auto"])
def test_sums_of_two_products_fit_into_16_bits(solver: str, tmp_path: Path) -> None:
    """Filters of one sign over positive images: on CPUs without VNNI nearly every sum would be cut off."""
    rng = graphs.rng(3)
    filters = np.abs(weight(8, 4, 3, 3)) + 0.5
    constants = {"w": filters.astype(np.float32), "v": np.abs(weight(8, 8, 3, 3))}
    made = [node("Conv", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "v"], ["y"])]
    proto = graphs.model(made, {"x": ("float32", ["batch", 4, 12, 12])}, {"y": "float32"}, constants)
    model, output = graphs.save(proto, tmp_path / "model.onnx"), tmp_path / "out.onnx"
    samples = [{"x": rng.uniform(0, 1, (1, 4, 12, 12)).astype(np.float32)} for _ in range(4)]
    report = onnxquant.quantize(model, output, activations="static", data=samples, solver=solver)
    assert report.proof
    losses = report.proof.activations.saturation
    assert len(losses) == 2 and all(loss.sqnr_db > SATURATED_DB for loss in losses.values())
    assert report.proof.outputs["float vs deployed"]["y"].sqnr_db > 30


def test_sums_of_two_products_with_dynamic_activations_fit_into_16_bits(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": ("float32", ["batch", 64])},
        {"y": "float32"},
        {"w": np.abs(weight(64, 64)) + 0.5},
    )
    samples = [{"x": graphs.rng(i).uniform(0, 1, (4, 64)).astype(np.float32)} for i in range(4)]
    model, output = graphs.save(proto, tmp_path / "model.onnx"), tmp_path / "out.onnx"
    report = onnxquant.quantize(model, output, activations="dynamic", data=samples)
    assert report.proof
    (loss,) = report.proof.activations.saturation.values()
    assert loss.sqnr_db > SATURATED_DB
    assert report.proof.outputs["float vs deployed"]["y"].sqnr_db > 35
