"""Shapes that real models bring: external data, nested graphs, functions, tied weights, foreign ops."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxquant
from onnxquant.artifact.records import records
from onnxquant.graph.io import load


@pytest.mark.parametrize("target", ["auto", "onnx", "ort", "custom"])
@pytest.mark.parametrize("external", [True, False])
def test_nested_graphs_keep_their_planes(target: str, external: bool, tmp_path: Path) -> None:
    source = graphs.save(graphs.branches(256, 288), tmp_path / "source.onnx", external=external)
    output = tmp_path / "out.onnx"
    where = "always" if external else "never"
    report = onnxquant.quantize(source, output, target=target, format="q4_0", external_data=where)
    assert report.passed, report.proof and report.proof.problems
    assert (tmp_path / "out.bin").exists() == external
    assert len(report.encoded) == 3
    x = graphs.rng().standard_normal((2, 256)).astype(np.float32)
    for condition in (True, False):
        feed = {"x": x, "c": np.array(condition)}
        expected, got = (ort.InferenceSession(p).run(None, feed)[0] for p in (source, output))
        assert np.abs(got - expected).max() < 0.3 * np.abs(expected).max()


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("exclude", [(), ("then",), ("w_then",)])
def test_graphs_beside_each_other_may_use_one_name(external: bool, exclude: tuple[str, ...], tmp_path: Path) -> None:
    source = graphs.save(graphs.branches(256, 288, other_name="w_then"), tmp_path / "source.onnx")
    output = tmp_path / "out.onnx"
    where = "always" if external else "never"
    report = onnxquant.quantize(source, output, exclude=exclude, external_data=where)
    assert report.passed, report.proof and report.proof.problems
    assert report.predicted_bytes == pytest.approx(report.output_bytes, rel=0.01)
    x = graphs.rng().standard_normal((2, 256)).astype(np.float32)
    for condition in (True, False):
        feed = {"x": x, "c": np.array(condition)}
        expected, got = (ort.InferenceSession(p).run(None, feed)[0] for p in (source, output))
        assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert all(onnxquant.verify(output).values())


@pytest.mark.parametrize("target", ["auto", "ort", "custom"])
def test_tied_weights_are_encoded_once(target: str, tmp_path: Path) -> None:
    source = graphs.save(graphs.tied(512, 256), tmp_path / "source.onnx")
    report = onnxquant.quantize(source, tmp_path / "out.onnx", target=target, format="int4")
    assert report.passed
    (site,) = report.encoded
    assert site.decision.role == "matmul+gather"
    assert report.original_bytes / (report.output_bytes or 1) > 6.3


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("target", ["auto", "onnx", "custom"])
def test_other_float_types_are_proven(dtype: str, target: str, tmp_path: Path) -> None:
    source = graphs.save(graphs.matmul(256, 288, dtype=dtype), tmp_path / "source.onnx")
    for options in ({"format": "q4_0"}, {"format": "int8"}):
        report = onnxquant.quantize(source, tmp_path / "out.onnx", target=target, force=True, **options)
        assert report.passed, report.proof and report.proof.problems


def test_loop_bodies_and_gru_are_proven(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            graphs.node("MatMul", ["before", "w"], ["product"]),
            graphs.node("Tanh", ["product"], ["after"]),
            graphs.node("Identity", ["go"], ["again"]),
        ],
        "body",
        [info("i", 7, []), info("go", 9, []), info("before", 1, None)],
        [info("again", 9, []), info("after", 1, None)],
        [onnx.numpy_helper.from_array(graphs.weight(288, 288), "w")],
    )
    loop = graphs.model(
        [graphs.node("Loop", ["n", "c", "x"], ["y"], body=body)],
        {"x": ("float32", ["batch", 288])},
        {"y": "float32"},
        {"n": np.array(3), "c": np.array(True)},
    )
    gru = graphs.model(
        [graphs.node("GRU", ["x", "w", "r"], ["y"], hidden_size=24)],
        {"x": ("float32", [6, "batch", 20])},
        {"y": "float32"},
        {"w": graphs.weight(1, 72, 20), "r": graphs.weight(1, 72, 24, seed=5)},
    )
    for name, proto in (("loop", loop), ("gru", gru)):
        source = graphs.save(proto, tmp_path / f"{name}.onnx")
        for target in ("auto", "onnx", "custom"):
            report = onnxquant.quantize(source, tmp_path / "out.onnx", target=target, format="q4_0", force=True)
            assert report.passed, report.proof and report.proof.problems


def test_every_user_of_a_shared_weight_is_served(tmp_path: Path) -> None:
    proto = graphs.model(
        [
            graphs.node("MatMul", ["x", "w"], ["a"]),
            graphs.node("Mul", ["w", "two"], ["w2"]),  # no site: reads the decoded weight
            graphs.node("MatMul", ["a", "w2"], ["y"]),
        ],
        {"x": ("float32", ["batch", 288])},
        {"y": "float32"},
        {"w": graphs.weight(288, 288), "two": np.float32(2)},
    )
    source = graphs.save(proto, tmp_path / "source.onnx")
    for target in ("ort", "onnx", "custom"):
        report = onnxquant.quantize(source, tmp_path / f"{target}.onnx", target=target, format="int8")
        assert report.passed, report.proof and report.proof.problems
        names = {t.name for t in onnx.load(tmp_path / f"{target}.onnx").graph.initializer}
        assert "w" not in names


def test_functions_with_weights_are_inlined_and_shared(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(graphs.weight(288, 288), "value")
    function = onnx.helper.make_function(
        "local",
        "Block",
        ["x"],
        ["y"],
        [
            onnx.helper.make_node("Constant", [], ["w"], value=weight),
            onnx.helper.make_node("MatMul", ["x", "w"], ["p"]),
            onnx.helper.make_node("Relu", ["p"], ["y"]),
        ],
        [onnx.helper.make_opsetid("", 17)],
    )
    proto = graphs.model(
        [graphs.node("Block", ["x"], ["h"], domain="local"), graphs.node("Block", ["h"], ["y"], domain="local")],
        {"x": ("float32", ["batch", 288])},
        {"y": "float32"},
        {},
        functions=[function],
    )
    source = graphs.save(proto, tmp_path / "source.onnx")
    report = onnxquant.quantize(source, tmp_path / "out.onnx", format="int8")
    assert report.passed
    (site,) = report.encoded
    assert len(site.decision.nodes) == 2
    assert any("inlined" in n for n in report.notes)


def test_weights_of_old_models_are_found(tmp_path: Path) -> None:
    """IR 3: initializers are graph inputs; Constant nodes hold weights."""
    proto = graphs.matmul(288, 288, opset=9)
    proto.ir_version = 3
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [288, 288]))
    source = graphs.save(proto, tmp_path / "old.onnx")
    report = onnxquant.quantize(source, tmp_path / "out.onnx")
    assert report.passed
    assert [i.name for i in onnx.load(tmp_path / "out.onnx").graph.input] == ["x"]


@pytest.mark.parametrize("options", [{"format": "q4_0", "target": "custom"}, {"format": "nf4"}])
def test_models_older_than_bodies_of_our_operators_are_converted(options: dict[str, str], tmp_path: Path) -> None:
    source = graphs.save(graphs.matmul(256, 288, opset=12), tmp_path / "old.onnx")
    report = onnxquant.quantize(source, tmp_path / "out.onnx", **options)
    assert report.passed
    assert report.encoded[0].decision.target == "custom"
    assert {o.domain: o.version for o in onnx.load(tmp_path / "out.onnx").opset_import}[""] == 13


def test_initializers_a_caller_may_override_stay(tmp_path: Path) -> None:
    proto = graphs.matmul(288, 288)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [288, 288]))
    source = graphs.save(proto, tmp_path / "source.onnx")
    with pytest.raises(onnxquant.ModelError, match="a caller may override it"):
        onnxquant.quantize(source, tmp_path / "out.onnx")


def test_range_of_the_scale_keeps_a_weight_in_float(tmp_path: Path) -> None:
    proto = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["a"]), graphs.node("MatMul", ["a", "huge"], ["y"])],
        {"x": ("float32", ["batch", 288])},
        {"y": "float32"},
        {"w": graphs.weight(288, 288), "huge": graphs.weight(288, 288) * np.float32(1e9)},
    )
    source = graphs.save(proto, tmp_path / "source.onnx")
    report = onnxquant.quantize(source, tmp_path / "out.onnx", format="q4_0")
    assert report.passed
    kept = next(s for s in report.sites if s.decision.name == "huge")
    assert kept.decision.format is None
    assert "beyond float16" in kept.decision.reason


def test_node_metadata_and_foreign_attributes_survive(tmp_path: Path) -> None:
    """What is not quantized is carried over byte for byte: binary strings, types, metadata."""
    proto = graphs.matmul(288, 288)
    proto.graph.node[0].doc_string = "kept"
    extra = graphs.node("Identity", ["y"], ["z"], name="foreign")
    extra.metadata_props.add(key="origin", value="here")
    proto.graph.node.append(extra)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    proto.metadata_props.add(key="author", value="somebody")
    source = graphs.save(proto, tmp_path / "source.onnx")
    onnxquant.quantize(source, tmp_path / "out.onnx", proof=False)
    out = onnx.load(tmp_path / "out.onnx")
    kept = next(n for n in out.graph.node if n.name == "foreign")
    assert kept.SerializeToString() == extra.SerializeToString()
    assert {p.key: p.value for p in out.metadata_props}["author"] == "somebody"


def test_models_with_extension_ops_load_and_quantize(tmp_path: Path) -> None:
    """A tokenizer op of onnxruntime-extensions in front of an embedding: found, registered, proven."""
    split = onnx.helper.make_node("StringUpper", ["text"], ["upper"], domain="ai.onnx.contrib", name="upper")
    lengths = onnx.helper.make_node("StringLength", ["upper"], ["ids"], domain="ai.onnx.contrib", name="length")
    proto = graphs.model(
        [split, lengths, graphs.node("Gather", ["table", "ids"], ["e"]), graphs.node("MatMul", ["e", "w"], ["y"])],
        {"text": ("object", ["batch"])},
        {"y": "float32"},
        {"table": graphs.weight(300, 288), "w": graphs.weight(288, 288, seed=2)},
    )
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.contrib", 1))
    source = graphs.save(proto, tmp_path / "source.onnx")
    data = [{"text": np.array(["quantize", "this"])}]
    for options in ({"format": "int8"}, {"format": "q4_0", "target": "custom"}, {"format": "f16", "whole_graph": True}):
        report = onnxquant.quantize(source, tmp_path / "out.onnx", data=data, force=True, **options)
        assert report.passed, report.proof and report.proof.problems
        session = onnxquant.load(tmp_path / "out.onnx", intra_op_num_threads=1)
        assert session.run(None, {"text": np.array(["a", "bc", "def"])})[0].shape == (3, 288)
    with pytest.raises(TypeError, match="no_such"):
        onnxquant.load(tmp_path / "out.onnx", no_such=1)


def test_dry_run_plans_and_writes_nothing(default_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(default_model.read_bytes())
    report = onnxquant.quantize(copy, format="i2_s", target="custom", dry_run=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]
    assert report.predicted_bytes
    assert report.predicted_bytes < 150_000
    refused = [s.decision for s in report.sites if s.decision.refusals]
    assert all("bytes" in d.reason for d in refused)


def test_i2_s_warns_with_the_damage(default_model: Path, tmp_path: Path) -> None:
    report = onnxquant.quantize(default_model, tmp_path / "out.onnx", format="i2_s", proof=False)
    assert any("not trained ternary" in w and "dB" in w for w in report.warnings)
    ternary = graphs.model(
        [graphs.node("MatMul", ["x", "w"], ["y"])],
        {"x": ("float32", ["batch", 384])},
        {"y": "float32"},
        {"w": graphs.rng().integers(-1, 2, (384, 256)).astype(np.float32) * np.float32(0.37)},
    )
    source = graphs.save(ternary, tmp_path / "ternary.onnx")
    kept = onnxquant.quantize(source, tmp_path / "kept.onnx", format="i2_s")
    assert not any("ternary" in w for w in kept.warnings)
    (site,) = kept.encoded
    assert site.error and site.error.sqnr_db == float("inf")
    assert site.decision.bits_per_weight == pytest.approx(2.0, abs=0.001)


def test_metadata_describes_every_encoded_weight(default_model: Path, tmp_path: Path) -> None:
    onnxquant.quantize(default_model, tmp_path / "out.onnx", proof=False, format="int4")
    found = records(load(tmp_path / "out.onnx").proto)
    assert {r.format for r in found} == {"int4"}
    assert all(r.planes and r.results for r in found)
