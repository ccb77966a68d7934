"""Codes of a checkpoint in a float graph: which rows they are, and what the graph then computes."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import refused, run
from onnx import TensorProto, helper, numpy_helper

import onnxquant
from onnxquant import interchange
from onnxquant.errors import CheckpointError


def _normal(*shape: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(np.float32)


def _paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a rotary projection in the other of the two orders that models have them in."""
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


_Q, _K, _V, _O = (
    _normal(128, 128, seed=1),
    _normal(64, 128, seed=2),
    _normal(64, 128, seed=3),
    _normal(128, 128, seed=4),
)
_TABLE, _DOWN, _OTHER = _normal(300, 128, seed=5), _normal(64, 256, seed=6), _normal(128, 12, seed=7)


def _graph(path: Path, weights: dict[str, np.ndarray]) -> Path:
    """Lookup, joined queries, keys and values, an output projection, a Gemm, and a head tied to the table."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["qkv"]),
        helper.make_node("MatMul", ["qkv", "down"], ["y"]),
        helper.make_node("Concat", ["y", "y"], ["yy"], axis=-1),
        helper.make_node("MatMul", ["yy", "layers.0.o_proj.weight"], ["z"]),
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["z", "head"], ["logits"]),
        helper.make_node("MatMul", ["z", "other"], ["extra"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", w]) for n, w in (("logits", 300), ("extra", 12))],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _weights(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, o: np.ndarray, table: np.ndarray, down: np.ndarray
) -> dict[str, np.ndarray]:
    joined = np.concatenate([_paired(q, 4), _paired(k, 2), v]).T
    return {"table": table, "onnx::MatMul_1": joined, "down": down.T, "layers.0.o_proj.weight": o.T, "other": _OTHER}


def _run(path: Path) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options).run(None, {"ids": np.arange(0, 300, 7)})


def test_a_graph_computes_what_the_decoded_checkpoint_would(tmp_path: Path) -> None:
    codes = {
        "blk.0.attn_q.weight": onnxquant.encode(_Q, "q4_0"), "blk.0.attn_k.weight": onnxquant.encode(_K, "q4_0"),
        "blk.0.attn_v.weight": onnxquant.encode(_V, "q4_0"), "layers.0.o_proj.weight": onnxquant.encode(_O, "q4_1"),
        "token_embd.weight": onnxquant.encode(_TABLE, "q8_0"), "blk.0.ffn_down.weight": onnxquant.encode(_DOWN, "q6_k"),
        "unused.weight": onnxquant.encode(_normal(50, 128, seed=9), "q4_0"),
    }  # fmt: skip
    interchange.save(tmp_path / "c.gguf", {**codes, "norm.weight": _normal(128, seed=8)})
    model = _graph(tmp_path / "m.onnx", _weights(_Q, _K, _V, _O, _TABLE, _DOWN))
    report = interchange.transplant(model, tmp_path / "c.gguf", tmp_path / "out.onnx", target="custom")
    assert {w.name: (w.sources, w.how, w.is_reordered) for w in report.weights} == {
        "table": (("token_embd.weight",), "values", False),
        "onnx::MatMul_1": (("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"), "values", True),
        "down": (("blk.0.ffn_down.weight",), "values", False),
        "layers.0.o_proj.weight": (("layers.0.o_proj.weight",), "name", False),
    }
    assert report.unused == ("unused.weight",)
    (other,) = report.unmatched
    assert other.name == "other"
    decoded = {name: onnxquant.decode(weight) for name, weight in codes.items()}
    parts = (*(f"blk.0.attn_{part}" for part in "qkv"), "layers.0.o_proj", "token_embd", "blk.0.ffn_down")
    weights = _weights(*(decoded[f"{part}.weight"] for part in parts))
    exact = _run(_graph(tmp_path / "exact.onnx", weights))
    onnxquant.dequantize(tmp_path / "out.onnx", tmp_path / "float.onnx")
    for actual, expected in zip(_run(tmp_path / "float.onnx"), exact, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6 * np.abs(expected).max())
    for actual, expected in zip(_run(tmp_path / "out.onnx"), exact, strict=True):  # products with activations in 8 bits
        np.testing.assert_allclose(actual, expected, atol=0.03 * np.abs(expected).max())


def test_one_weight_of_the_checkpoint_serves_several_of_the_graph(tmp_path: Path) -> None:
    """A checkpoint with joined queries, keys and values, and a graph where each is a product of its own."""
    joined = onnxquant.encode(np.concatenate([_Q, _K, _V]), "q4_0")
    interchange.save(tmp_path / "c.gguf", {"qkv.weight": joined})
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}.out"]) for name in "qkv"]
    values = {"q": _Q.T, "k": _K.T, "v": _V.T}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 128])],
        [helper.make_tensor_value_info(f"{n}.out", TensorProto.FLOAT, ["n", values[n].shape[1]]) for n in "qkv"],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in values.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    interchange.transplant(tmp_path / "m.onnx", tmp_path / "c.gguf", tmp_path / "o.onnx", target="custom")
    x = _normal(5, 128, seed=10)
    onnxquant.dequantize(tmp_path / "o.onnx", tmp_path / "f.onnx")
    session = ort.InferenceSession(tmp_path / "f.onnx")
    actual = np.concatenate(session.run(["q.out", "k.out", "v.out"], {"x": x}), axis=1)
    np.testing.assert_allclose(actual, x @ onnxquant.decode(joined).T, atol=1e-5)


def test_rows_of_different_formats_cannot_be_one_weight(tmp_path: Path) -> None:
    interchange.save(
        tmp_path / "c.gguf",
        {"q": onnxquant.encode(_Q, "q4_0"), "k": onnxquant.encode(_K, "q8_0"), "v": onnxquant.encode(_V, "q4_0"),
         "table": onnxquant.encode(_TABLE, "q8_0")},
    )  # fmt: skip
    model = _graph(tmp_path / "m.onnx", _weights(_Q, _K, _V, _O, _TABLE, _DOWN))
    report = interchange.transplant(model, tmp_path / "c.gguf", tmp_path / "out.onnx")
    reasons = {entry.name: entry.reason for entry in report.unmatched}
    assert reasons["onnx::MatMul_1"] == "its rows are of different formats in the checkpoint: q4_0, q8_0"


def test_blocks_that_cross_rows_are_cut_where_rows_end(tmp_path: Path) -> None:
    """bitsandbytes' blocks of 64 over rows of 96: halves of a block have its scale."""
    weight = _normal(32, 96, seed=11)
    flat = onnxquant.encode(weight.reshape(-1, 64), "nf4")
    crossing = onnxquant.Encoded(flat.format, flat.rows, flat.cols, flat.planes, (32, 96))
    interchange.save(tmp_path / "c.safetensors", {"w.weight": crossing})
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "fc"], ["y"], transB=1)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])], [numpy_helper.from_array(weight, "fc")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    interchange.transplant(tmp_path / "m.onnx", tmp_path / "c.safetensors", tmp_path / "o.onnx")
    x = _normal(4, 96, seed=12)
    (actual,) = ort.InferenceSession(tmp_path / "o.onnx").run(None, {"x": x})
    np.testing.assert_allclose(actual, x @ onnxquant.decode(flat).reshape(32, 96).T, atol=1e-5)


def test_another_models_checkpoint_is_refused_with_the_nearest_weight(tmp_path: Path) -> None:
    interchange.save(tmp_path / "c.gguf", {"w": onnxquant.encode(_normal(128, 128, seed=20), "q4_0")})
    model = _graph(tmp_path / "m.onnx", _weights(_Q, _K, _V, _O, _TABLE, _DOWN))
    with pytest.raises(
        CheckpointError, match=r"no weight of .*m\.onnx was found in it \(table: .*nearest weight is w, at "
    ):
        interchange.transplant(model, tmp_path / "c.gguf", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_checkpoint_without_codes_is_refused(tmp_path: Path) -> None:
    interchange.save(tmp_path / "c.gguf", {"w": _Q})
    model = _graph(tmp_path / "m.onnx", _weights(_Q, _K, _V, _O, _TABLE, _DOWN))
    with pytest.raises(CheckpointError, match="plain numbers alone"):
        interchange.transplant(model, tmp_path / "c.gguf", tmp_path / "out.onnx")


def test_an_output_that_is_the_checkpoint_and_an_unknown_target_are_refused_first(tmp_path: Path) -> None:
    interchange.save(tmp_path / "c.gguf", {"w": onnxquant.encode(_Q, "q4_0")})
    before = (tmp_path / "c.gguf").read_bytes()
    model = _graph(tmp_path / "m.onnx", _weights(_Q, _K, _V, _O, _TABLE, _DOWN))
    with pytest.raises(onnxquant.OutputError, match="is the source itself"):
        interchange.transplant(model, tmp_path / "c.gguf", tmp_path / "c.gguf", force=True)
    assert (tmp_path / "c.gguf").read_bytes() == before
    with pytest.raises(onnxquant.RecipeError, match="zzz"):
        interchange.transplant(model, tmp_path / "c.gguf", tmp_path / "o.onnx", target="zzz")


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "it holds NaN or infinity"), (0.0, "it holds zeros alone")])
def test_weights_without_a_direction_stay_in_float(tmp_path: Path, value: float, reason: str) -> None:
    interchange.save(tmp_path / "c.gguf", {"o": onnxquant.encode(_O, "q4_0"), "t": onnxquant.encode(_TABLE, "q4_0")})
    weights = _weights(_Q, _K, _V, _O, _TABLE, _DOWN)
    weights["onnx::MatMul_1"] = np.full_like(weights["onnx::MatMul_1"], value)
    report = interchange.transplant(_graph(tmp_path / "m.onnx", weights), tmp_path / "c.gguf", tmp_path / "o.onnx")
    assert {entry.name: entry.reason for entry in report.unmatched}["onnx::MatMul_1"] == reason


def _one_product(folder: Path) -> Path:
    """A product whose weight is large enough for a kernel, with the checkpoint c.gguf beside it."""
    weight = _normal(320, 256, seed=13)
    interchange.save(folder / "c.gguf", {"w": onnxquant.encode(weight, "q4_0")})
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 320])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return folder / "m.onnx"


def test_the_command_says_how_near_the_file_is_to_the_decoded_checkpoint(tmp_path: Path) -> None:
    """In float it is as near as the order of additions allows; with activations of 8 bits some 40 dB."""
    model, source = _one_product(tmp_path), tmp_path / "c.gguf"
    result = run("transplant", model, source, "-o", tmp_path / "f.onnx", "--compute", "float", "--report", ".json")
    assert result.exit_code == 0, result.output
    last = " ".join(result.stdout.splitlines()[-4:])
    assert "1 weights have the checkpoint's codes, 0 stay in float against the decoded checkpoint: worst output y:" in last
    proof = json.loads((tmp_path / "f.json").read_text())["proof"]
    assert proof["outputs"]["twin vs deployed"]["y"]["sqnr_db"] in ("inf", pytest.approx(130, abs=30))
    x = _normal(5, 256, seed=14)
    (actual,) = ort.InferenceSession(tmp_path / "f.onnx").run(None, {"x": x})
    decoded = interchange.open_checkpoint(source)["w"].array()
    np.testing.assert_allclose(actual, x @ decoded.T, atol=1e-5)
    result = run("transplant", model, source, "-o", tmp_path / "q.onnx", "-q")
    assert (result.exit_code, result.output) == (0, "")
    report = json.loads(run("transplant", model, source, "-o", tmp_path / "j.onnx", "--json").stdout)
    assert 20 < report["proof"]["proof"]["outputs"]["twin vs deployed"]["y"]["sqnr_db"] < 60


def test_options_of_the_command_that_cannot_be_met_are_refused_before_any_work(tmp_path: Path) -> None:
    place, taken = tmp_path / "o.onnx", tmp_path / "r.json"
    taken.write_text("{}")
    command = ("transplant", _one_product(tmp_path), tmp_path / "c.gguf", "-o", place)
    refused(run(*command, "--report", taken), "r.json: exists already")
    refused(run(*command, "--report", ".html", "--no-proof"), "--report has no effect")
    refused(run(*command, "--compute", "int8"), "int8")
    assert not place.exists()
    with pytest.raises(onnxquant.RecipeError, match=r"^compute is 'int8'"):
        interchange.transplant(tmp_path / "m.onnx", tmp_path / "c.gguf", place, compute="int8")
