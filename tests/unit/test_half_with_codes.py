"""float16 beside codes: encoded weights, integer activations, and all that stays in float as float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from commands import run
from numpy.typing import NDArray

import onnxquant
from onnxquant.clients import Support, check, client_named
from onnxquant.errors import ModelError
from onnxquant.graph.io import load
from onnxquant.passes.float16.convert import ConvertToFloat16
from onnxquant.runtime import histogram, optimized_graph

F32, F16 = np.float32, np.float16
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
node = graphs.node


def two_products(width: int = 64) -> onnx.ModelProto:
    """relu(x @ w + b) @ v."""
    nodes = [
        node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], ["a"]), node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": graphs.weight(width, 2 * width), "v": graphs.weight(2 * width, width, seed=1)}
    return graphs.model(
        nodes, {"x": (F32, ["n", width])}, {"y": F32}, {**weights, "b": graphs.weight(2 * width, seed=2)}
    )


def samples(width: int = 64) -> list[dict[str, Any]]:
    return [{"x": graphs.rng(i).standard_normal((4, width), F32)} for i in range(8)]


def quantized(model: onnx.ModelProto, path: Path, **options: Any) -> onnx.ModelProto:
    """The file of float16 compute: verified, near its original, and near the float model that is made of it again."""
    onnxquant.quantize(model, path, **{"float16": True, "proof": False, **options})
    assert all(onnxquant.verify(path).values())
    restored = path.with_name("restored.onnx")
    onnxquant.dequantize(path, restored, force=True)
    original = path.with_name("original.onnx")
    onnx.save(model, original)
    exact, result, again = (outputs(p) for p in (original, path, restored))
    size = np.abs(exact).max()
    assert np.isfinite(result).all() and np.abs(result - exact).max() < 0.25 * size
    assert np.abs(result - again).max() < 0.03 * size
    return onnx.load(path)


def outputs(path: Path) -> NDArray[np.float64]:
    """The first output of a model on one sample: normal floats, ones elsewhere."""
    session = onnxquant.load(path)
    feed = {}
    for value in session.get_inputs():
        shape = [n if isinstance(n, int) else 3 for n in value.shape]
        kind = {"tensor(float)": F32, "tensor(float16)": F16, "tensor(bool)": np.bool_}.get(value.type)
        normal = graphs.rng(9).standard_normal(shape).astype(F16)
        feed[value.name] = np.ones(shape, np.int64) if kind is None else normal.astype(kind) if shape else np.array(1, kind)
    return np.asarray(session.run(None, feed)[0], np.float64)


@pytest.mark.parametrize("options", [
    {"bits": 4, "target": "ort"}, {"format": "nf4", "target": "custom"}, {"activations": "static"}
])  # fmt: skip
def test_a_float16_file_with_codes_is_proven(options: dict[str, Any], tmp_path: Path) -> None:
    data = samples() if "activations" in options else None
    report = onnxquant.quantize(two_products(), tmp_path / "y.onnx", float16=True, samples=1, data=data, **options)
    assert report.proof and not report.proof.problems and len(report.proof.weights) == 2


def casts(model: onnx.ModelProto) -> list[str]:
    return [n.input[0] for n in model.graph.node if n.op_type == "Cast"]


@pytest.mark.parametrize("options", [
    {"bits": 4, "target": "ort"}, {"bits": 8, "target": "ort"}, {"format": "int4", "symmetric": False, "target": "ort"},
    {"format": "q4_0", "target": "ort"}, {"bits": 4, "target": "onnx"},
])  # fmt: skip
def test_no_cast_stands_between_float16_nodes(options: dict[str, Any], tmp_path: Path) -> None:
    model = quantized(two_products(), tmp_path / "y.onnx", **options)
    assert not casts(model)
    assert {t.data_type for t in model.graph.initializer} <= {
        HALF, *(onnx.TensorProto.UINT8, onnx.TensorProto.INT64, onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    }  # fmt: skip


def test_inputs_and_outputs_stay_float32_where_asked(tmp_path: Path) -> None:
    model = quantized(two_products(), tmp_path / "y.onnx", bits=4, target="ort", keep_io_types=True)
    assert [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)] == [FLOAT, FLOAT]
    assert casts(model) == ["x", "y_float16"]


def test_two_bits_stay_float32_for_releases_without_that_kernel(tmp_path: Path) -> None:
    onnxquant.quantize(two_products(), tmp_path / "y.onnx", bits=2, target="ort", proof=False, float16=True)
    assert set(casts(onnx.load(tmp_path / "y.onnx"))) == {"x", "w/scales", "v/scales", "p", "r", "y_float32"}
    assert np.isfinite(outputs(tmp_path / "y.onnx")).all()


def test_a_client_without_an_operator_gets_another_in_float16(tmp_path: Path) -> None:
    """transformers.js has no kernel for GatherBlockQuantized."""
    source = graphs.tied(1024, 128)
    model = quantized(source, tmp_path / "y.onnx", bits=4, clients=("transformers.js",))
    assert "GatherBlockQuantized" not in {n.op_type for n in model.graph.node}
    assert check(model, [client_named("transformers.js")])["transformers.js"].support is Support.YES


def test_auto_prefers_products_that_take_float16(tmp_path: Path) -> None:
    model = quantized(two_products(512), tmp_path / "y.onnx", format="q4_0")
    assert [n.op_type for n in model.graph.node] == ["MatMulNBits", "Add", "Relu", "MatMulNBits"]


@pytest.mark.parametrize("options", [{"format": "nf4", "target": "custom"}, {"format": "q4_k", "target": "custom"}])
def test_our_operators_have_casts_at_their_borders(options: dict[str, Any], tmp_path: Path) -> None:
    model = quantized(two_products(256), tmp_path / "y.onnx", **options)
    assert casts(model) == ["x", "p", "r", "y_float32"]


def test_dynamic_integers_have_casts_at_their_borders(tmp_path: Path) -> None:
    model = quantized(two_products(), tmp_path / "y.onnx", activations="dynamic", data=samples())
    assert casts(model) == ["x", "a", "r", "y_float32"]


def test_static_integers_still_become_one_kernel(tmp_path: Path) -> None:
    """A Cast between Conv and QuantizeLinear would leave the convolution in float."""
    weights = {"w": graphs.weight(16, 8, 3, 3), "c": graphs.weight(16, seed=1)}
    nodes = [node("Conv", ["x", "w", "c"], ["a"], pads=[1, 1, 1, 1]), node("Relu", ["a"], ["r"]),
             node("Conv", ["r", "v"], ["s"]), node("Sigmoid", ["s"], ["y"])]  # fmt: skip
    weights["v"] = graphs.weight(8, 16, 3, 3, seed=2)
    model = graphs.model(nodes, {"x": (F32, [1, 8, 12, 12])}, {"y": F32}, weights)
    data = [{"x": graphs.rng(i).standard_normal((1, 8, 12, 12), F32)} for i in range(8)]
    quantized(model, tmp_path / "y.onnx", activations="static", data=data)
    assert histogram(optimized_graph(tmp_path / "y.onnx"))["com.microsoft.QLinearConv"] == 2


def test_a_tied_weight_and_its_lookup_are_float16(tmp_path: Path) -> None:
    model = quantized(graphs.tied(64, 96), tmp_path / "y.onnx", bits=4, target="ort")
    assert sorted(n.op_type for n in model.graph.node if n.domain) == ["GatherBlockQuantized", "MatMulNBits"]
    assert not casts(model)


def test_weights_in_branches_are_float16(tmp_path: Path) -> None:
    branch = onnx.helper.make_graph(
        [node("MatMul", ["x", "w"], ["t"])], "then", [], [onnx.helper.make_tensor_value_info("t", FLOAT, None)],
        [onnx.numpy_helper.from_array(graphs.weight(64, 64), "w")],
    )  # fmt: skip
    other = graphs.captures("x", "Neg")[0]
    nodes = [node("If", ["c"], ["i"], then_branch=branch, else_branch=other), node("Relu", ["i"], ["y"])]
    model = graphs.model(nodes, {"x": (F32, ["n", 64]), "c": (np.bool_, [])}, {"y": F32}, {})
    result = quantized(model, tmp_path / "y.onnx", bits=4, target="ort")
    inner = next(a.g for n in result.graph.node if n.op_type == "If" for a in n.attribute if a.name == "then_branch")
    assert [n.op_type for n in inner.node] == ["MatMulNBits"]


def test_numbers_that_float16_has_not_stay_float32(tmp_path: Path) -> None:
    """Weights and constants beyond 65504, with what reads them."""
    model = graphs.model(
        [node("MatMul", ["x", "w"], ["p"]), node("Div", ["p", "large"], ["y"])], {"x": (F32, ["n", 64])}, {"y": F32},
        {"w": graphs.weight(64, 128) * F32(1e6), "large": np.array(1e5, F32)},
    )  # fmt: skip
    result = quantized(model, tmp_path / "y.onnx", format="int8", target="ort")
    assert set(casts(result)) == {"x", "w/scales", "y_float32"}


def test_a_model_whose_only_weight_float16_does_not_hold_is_refused(tmp_path: Path) -> None:
    """It was written, larger than before, with nothing encoded."""
    large = graphs.model(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": (F32, ["n", 64])},
        {"y": F32},
        {"w": graphs.weight(64, 128) * F32(1e6)},
    )
    with pytest.raises(ModelError, match=r"nothing to quantize: w: format f16: holds .*, the largest float16 is 65504"):
        onnxquant.quantize(large, tmp_path / "y.onnx", format="f16", proof=False)
    assert not list(tmp_path.iterdir())


def test_a_float16_file_of_ours_may_be_encoded(tmp_path: Path) -> None:
    """Hashes of the first run stood for tensors of the same names: the proof failed."""
    onnxquant.quantize(two_products(), tmp_path / "f16.onnx", float16=True, proof=False)
    report = onnxquant.quantize(tmp_path / "f16.onnx", tmp_path / "y.onnx", bits=4, target="ort", samples=1)
    assert report.passed and all(onnxquant.verify(tmp_path / "y.onnx").values())
    assert not casts(onnx.load(tmp_path / "y.onnx"))
    again = quantized(onnx.load(tmp_path / "f16.onnx"), tmp_path / "z.onnx", bits=4, target="ort")
    assert not casts(again)


def test_float16_alone_makes_the_weights_float16_too(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(two_products(), source)
    assert run("quantize", source, "--float16", "--no-proof").exit_code == 0
    whole = run("quantize", source, "--format", "f16", "--whole-graph", "--no-proof", "-o", tmp_path / "w.onnx")
    assert whole.exit_code == 0
    one, two = (onnx.load(tmp_path / name) for name in ("m.f16.onnx", "w.onnx"))
    assert one.graph == two.graph


def test_a_rule_may_leave_the_rest_to_float16(tmp_path: Path) -> None:
    recipe = {"rules": [{"include": ["^w$"], "format": "int4", "target": "ort"}]}
    model = quantized(two_products(), tmp_path / "y.onnx", recipe=recipe)
    assert [n.op_type for n in model.graph.node] == ["MatMulNBits", "Add", "Relu", "MatMul"]
    assert next(t for t in model.graph.initializer if t.name == "v").data_type == HALF


def test_a_file_is_named_after_both(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(two_products(), source)
    report = onnxquant.quantize(source, float16=True, bits=4, proof=False)
    assert Path(str(report.output)).name == "m.int4.f16.onnx"


def test_integers_of_an_unknown_operator_are_left_alone() -> None:
    """Nobody knows the operator, but what reads its output takes no floats."""
    foreign = onnx.helper.make_node("Tokens", ["text"], ["ids"], domain="nobody")
    nodes = [foreign, node("Unsqueeze", ["ids", "axis"], ["wide"]), node("Gather", ["w", "wide"], ["y"])]
    constants = {"w": graphs.weight(8, 64), "axis": np.array([0], np.int64)}
    model = graphs.model(nodes, {"text": (np.int32, [4])}, {"y": F32}, constants)
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    document = load(model)
    ConvertToFloat16(keep_io_types=False)(document)
    assert not casts(document.proto)


def test_arithmetic_on_constants_stays_foldable() -> None:
    """onnxruntime folds no square root of float16: it would be computed in every call."""
    nodes = [node("Sqrt", ["c"], ["s"]), node("Div", ["x", "s"], ["y"])]
    document = load(graphs.model(nodes, {"x": (F32, [4])}, {"y": F32}, {"c": np.array(32, F32)}))
    ConvertToFloat16(keep_io_types=False)(document)
    assert casts(document.proto) == ["s"]


@pytest.mark.parametrize(("form", "kind"), [("nf4", 1), ("fp4", 0)])
def test_bnb4_has_the_bytes_of_onnxruntimes_quantizer(form: str, kind: int, tmp_path: Path) -> None:
    from onnxruntime.capi._pybind_state import quantize_matmul_bnb4

    weight = graphs.weight(128, 48)
    model = graphs.model([node("MatMul", ["x", "w"], ["y"])], {"x": (F32, ["n", 128])}, {"y": F32}, {"w": weight})
    onnxquant.quantize(model, tmp_path / "y.onnx", format=form, target="ort", proof=False)
    codes, absmax = np.zeros(128 * 48 // 2, np.uint8), np.zeros(128 * 48 // 64, F32)
    quantize_matmul_bnb4(codes, weight.T.copy(), absmax, 64, kind, 48, 128)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "y.onnx").graph.initializer}
    assert np.array_equal(stored["w/scales"], absmax)
    # onnxruntime decides ties, and fp4's negative zero, its own way.
    assert (stored["w/codes"] != codes).mean() < 0.02
    decoded = onnxquant.load(tmp_path / "y.onnx").run(None, {"x": np.eye(128, dtype=F32)})[0]
    onnxquant.dequantize(tmp_path / "y.onnx", tmp_path / "d.onnx")
    (restored,) = onnx.load(tmp_path / "d.onnx").graph.initializer
    assert np.allclose(onnx.numpy_helper.to_array(restored), decoded, atol=1e-6)


def test_bnb4_says_what_it_does_not_hold(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MatMulBnb4 multiplies nf4 weights, and this one is read otherwise"):
        onnxquant.quantize(graphs.tied(64, 128), tmp_path / "y.onnx", format="nf4", target="ort")
    with pytest.raises(ModelError, match="onnxruntime has no op that takes nf4 weights like these"):
        onnxquant.quantize(two_products(), tmp_path / "y.onnx", format="nf4", target="ort", double_quant=True)


def test_bnb4_in_a_float16_graph(tmp_path: Path) -> None:
    model = quantized(two_products(), tmp_path / "y.onnx", format="nf4", target="ort")
    assert [n.op_type for n in model.graph.node if n.op_type != "Cast"] == ["MatMulBnb4", "Add", "Relu", "MatMulBnb4"]
    assert casts(model) == ["w/scales", "v/scales"]
