"""Weights that lie on a grid already keep their codes and scales; others are not mistaken for such."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from every import every
from onnx import TensorProto, helper, numpy_helper

import onnxquant
from onnxquant.formats import format_named
from onnxquant.formats.integers import Integers
from onnxquant.solvers.own_grid import own_grid

Array = np.ndarray


def _scales(*shape: int, seed: int) -> Array:
    """Positive float32 scales over some decades, none with few digits."""
    return np.exp(np.random.default_rng(seed).uniform(-9, 2, shape)).astype(np.float32)


def _on_grid(codes: Array, scales: Array) -> Array:
    """What fake quantization leaves: codes times scales, rounded once."""
    return codes.astype(np.float32) * scales


def _codes(low: int, high: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high + 1, shape)


def _form(name: str, **parameters: object) -> Integers:
    form = format_named(name, **parameters)
    assert isinstance(form, Integers)
    return form


_OF_ROW, _OF_TENSOR = _scales(40, 1, seed=1), np.float32(0.0123)
_DEAD = np.where(np.arange(40)[:, None] % 7 == 3, 0, _codes(-127, 127, 40, 96))
_CASES = {
    "int8 of a tensor": ("int8", {}, _on_grid(_codes(-127, 127, 40, 96), _OF_TENSOR)),
    "int8 in one scale": ("int8", {"per_channel": False}, _on_grid(_codes(-127, 127, 40, 96), _OF_TENSOR)),
    "int8 of channels": ("int8", {"per_channel": True}, _on_grid(_codes(-127, 127, 40, 96), _OF_ROW)),
    "with the lowest code": ("int8", {}, _on_grid(_codes(-128, 127, 40, 96), _OF_ROW)),
    "dead channels": ("int8", {}, _on_grid(_DEAD, _OF_ROW)),
    "powers of two": ("int8", {}, _on_grid(_codes(-100, 100, 40, 96), 2.0 ** _codes(-9, 3, 40, 1).astype(np.float32))),
    "int4 below its range": ("int4", {}, _on_grid(_codes(-5, 5, 40, 96), _OF_ROW)),
    "int4 above its range": ("int4", {}, _on_grid(_codes(-7, 8, 40, 96), _OF_ROW)),
    "even codes alone": ("int4", {}, _on_grid(2 * _codes(-3, 3, 40, 96), _OF_ROW)),
    "blocks": ("int4", {}, _on_grid(_codes(-8, 7, 40, 96), np.repeat(_scales(40, 3, seed=2), 32, 1))),
    "a short last block": ("int4", {}, _on_grid(_codes(-8, 7, 40, 80), np.repeat(_scales(40, 3, seed=2), 32, 1)[:, :80])),
    "uint4": ("int4", {"symmetric": False}, _on_grid(_codes(-11, 4, 40, 96), _OF_ROW)),
    "float zero points": ("int8", {"symmetric": False, "zero_point": "float"}, _on_grid(_codes(-9, 200, 40, 96), _OF_ROW)),
    "ternary": ("int2", {}, _on_grid(_codes(-1, 1, 40, 96), _OF_TENSOR)),
    "int3": ("int3", {}, _on_grid(_codes(-4, 3, 40, 96), _OF_ROW)),
}  # fmt: skip


@every("case", _CASES)
def test_a_weight_on_a_grid_decodes_to_itself(case: str) -> None:
    name, parameters, weight = _CASES[case]
    grid = own_grid(_form(name, **parameters), weight)
    assert grid is not None
    np.testing.assert_array_equal(onnxquant.decode(grid.encoded(weight)), weight)


def test_scales_that_float16_holds_stay_in_float16() -> None:
    for case, scale in (("powers of two", np.float16), ("int4 below its range", np.float32)):
        name, parameters, weight = _CASES[case]
        grid = own_grid(_form(name, **parameters), weight)
        assert grid is not None
        assert grid.encoded(weight).planes["scales"].dtype == scale


def test_sums_of_a_minimum_and_a_product_are_near_their_grid() -> None:
    """Fake quantization may be codes times a step plus a minimum: what is near zero has the error of the minimum."""
    step = _scales(40, 1, seed=1)
    codes = _codes(0, 255, 40, 96)
    weight = codes.astype(np.float32) * step + np.float32(-131) * step
    assert not np.array_equal(weight, _on_grid(codes - 131, step))
    for seen in (weight, np.where(codes == 131, np.float32(1e-9) * step, weight)):
        grid = own_grid(_form("int8", per_channel=True, symmetric=False), seen)
        assert grid is not None
        encoded = grid.encoded(seen)
        np.testing.assert_array_equal(encoded.planes["codes"].astype(int) - encoded.planes["zero_points"], codes - 131)
        error = np.abs(onnxquant.decode(encoded) - seen).max(axis=1)
        assert (error <= 1e-6 * np.abs(seen).max(axis=1)).all()


_RANDOM = np.random.default_rng(3)
_NORMAL = _RANDOM.standard_normal((40, 96)).astype(np.float32)
_OTHERS = {
    "normal": _NORMAL,
    "rounded to float16": _NORMAL.astype(np.float16).astype(np.float32),
    "float16": _NORMAL.astype(np.float16),
    "few distinct values": _RANDOM.choice(_RANDOM.standard_normal(5).astype(np.float32), (40, 96)),
    "columns of four": _NORMAL.reshape(-1, 4),
    "one row that is not": np.concatenate([_CASES["int8 of channels"][2], _NORMAL[:1]]),
    "one weight that is not": _CASES["int8 of channels"][2] + np.eye(40, 96, dtype=np.float32) * np.float32(1e-6),
    "one column": _NORMAL.reshape(-1, 1),
    "not finite": np.where(np.eye(40, 96), np.float32(np.nan), _CASES["int8 of channels"][2]),
}


@every("case", _OTHERS)
def test_other_weights_are_not_taken_for_a_grid(case: str) -> None:
    assert own_grid(_form("int8"), _OTHERS[case]) is None
    assert own_grid(_form("int8", per_channel=True, symmetric=False), _OTHERS[case]) is None


def _model(path: Path, weights: dict[str, Array], nodes: list[onnx.NodeProto], **inputs: tuple[int, list[object]]) -> Path:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(len(nodes))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _kinds(path: Path) -> Path:
    """A convolution, a Gemm with a transposed weight, a product and a lookup, of weights on grids of at most 15 codes."""
    ternary = _on_grid(_codes(-1, 1, 48, 64, seed=4), np.float32(0.031))
    weights = {
        "conv": _on_grid(_codes(-5, 5, 24, 8, 3, 3, seed=5), _scales(24, 1, 1, 1, seed=6)),
        "gemm": _on_grid(_codes(-7, 7, 40, 48, seed=7), _scales(40, 1, seed=8)),
        "product": ternary,
        "table": _on_grid(_codes(-6, 6, 60, 64, seed=9), _scales(60, 1, seed=10)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv"], ["y0"]),
        helper.make_node("Gemm", ["x", "gemm"], ["y1"], transB=1),
        helper.make_node("MatMul", ["x", "product"], ["y2"]),
        helper.make_node("Gather", ["table", "ids"], ["y3"]),
    ]
    image, x = (TensorProto.FLOAT, [1, 8, 9, 9]), (TensorProto.FLOAT, ["n", 48])
    return _model(path, weights, nodes, image=image, x=x, ids=(TensorProto.INT64, ["m"]))


def _outputs(path: Path) -> list[Array]:
    random = np.random.default_rng(11)
    feeds = {
        "image": random.standard_normal((1, 8, 9, 9)).astype(np.float32),
        "x": random.standard_normal((5, 48)).astype(np.float32),
        "ids": np.arange(60),
    }
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options).run(None, feeds)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_kind_of_weight_keeps_its_grid(tmp_path: Path, bits: int) -> None:
    """Weights as small as these are decoded at load: onnxruntime then computes with the very floats."""
    model = _kinds(tmp_path / "m.onnx")
    report = onnxquant.quantize(model, tmp_path / "o.onnx", bits=bits)
    assert report.passed
    assert {site.decision.name: site.error and site.error.mse for site in report.encoded} == dict.fromkeys(
        ("conv", "gemm", "product", "table"), 0.0
    )
    assert any("4 weights lie on a grid already and keep it" in note for note in report.notes)
    assert report.predicted_bytes == pytest.approx((tmp_path / "o.onnx").stat().st_size, abs=16)
    for actual, expected in zip(_outputs(tmp_path / "o.onnx"), _outputs(model), strict=True):
        np.testing.assert_array_equal(actual, expected)
    onnxquant.dequantize(tmp_path / "o.onnx", tmp_path / "f.onnx")
    before, after = ({t.name: t for t in onnx.load(path).graph.initializer} for path in (model, tmp_path / "f.onnx"))
    for name, tensor in before.items():
        np.testing.assert_array_equal(numpy_helper.to_array(after[name]), numpy_helper.to_array(tensor))


def test_a_grid_of_more_codes_than_the_format_has_is_rounded_and_said(tmp_path: Path) -> None:
    eight, uneven = (_on_grid(_codes(*ends, 64, 48), np.float32(0.017)) for ends in ((-127, 127), (-120, 135)))
    nodes = [helper.make_node("MatMul", ["x", name], [f"y{i}"]) for i, name in enumerate("ab")]
    model = _model(tmp_path / "m.onnx", {"a": eight, "b": uneven}, nodes, x=(TensorProto.FLOAT, ["n", 64]))
    for options, note, kept in (
        ({"format": "int4"}, "2 weights", set()),
        ({"format": "int4"}, "a (--bits 8 keeps it), b (--bits 8 --asymmetric keeps it)", set()),
        ({"format": "int8"}, "b (--asymmetric keeps it)", {"a"}),
        ({"format": "int8", "symmetric": False}, "2 weights lie on a grid already", {"a", "b"}),
    ):
        report = onnxquant.quantize(model, tmp_path / "o.onnx", force=True, proof=False, **options)
        assert any(note in sentence for sentence in report.notes), (options, report.notes)
        assert {site.decision.name for site in report.encoded if site.error and site.error.mse == 0} == kept


def test_what_a_user_clips_or_leaves_in_float16_is_not_kept_exactly(tmp_path: Path) -> None:
    model = _kinds(tmp_path / "m.onnx")
    clipped = onnxquant.quantize(model, tmp_path / "c.onnx", format="int8", clip="percentile=90", proof=False)
    assert not any("grid" in note for note in clipped.notes)
    half = onnxquant.quantize(model, tmp_path / "h.onnx", format="int4", float16=True, proof=False)
    assert any("4 weights lie on a grid already and keep it" in note for note in half.notes)
    assert any("rounded to float16" in note for note in half.notes)
    assert all(site.error and site.error.sqnr_db > 60 for site in half.encoded)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_weights_beside_integer_activations_keep_their_grid(tmp_path: Path, kind: str) -> None:
    codes = np.where(np.arange(40)[:, None] == 9, 0, _codes(-100, 100, 40, 64))
    weight, bias = _on_grid(codes, _scales(40, 1, seed=1)), np.ones(40, np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y0"], transB=1)]
    model = _model(tmp_path / "m.onnx", {"w": weight, "b": bias}, nodes, x=(TensorProto.FLOAT, ["n", 64]))
    x = np.random.default_rng(12).standard_normal((32, 64)).astype(np.float32)
    report = onnxquant.quantize(model, tmp_path / "o.onnx", activations=kind, data={"x": x}, effort="low")
    assert report.passed
    planes = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "o.onnx").graph.initializer}
    assert {site.decision.target for site in report.encoded} == {"qdq" if kind == "static" else "dynamic"}
    stored, scales = planes["w/codes"].astype(np.float32), planes["w/scales"]
    decoded = stored * scales[:, None] if kind == "static" else (stored * scales).T
    np.testing.assert_array_equal(decoded, weight)
