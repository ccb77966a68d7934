"""Whole-graph float16: each trap that makes other converters write models that do not load, or compute something else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx.reference import ReferenceEvaluator

import onnxquant
from onnxquant.cli import main
from onnxquant.errors import ModelError, RecipeError
from onnxquant.graph.io import Document, load
from onnxquant.passes.float16.convert import ConvertToFloat16, Float16Result
from onnxquant.passes.float16.scope import FLOAT, HALF
from onnxquant.passes.float16.values import to_half

F32, F16, I64 = np.float32, np.float16, np.int64
node = graphs.node
Feed = dict[str, Any]


def halved(model: onnx.ModelProto, *, keep: bool = True) -> tuple[onnx.ModelProto, Float16Result]:
    document = load(model)
    outcome = ConvertToFloat16(keep)(document)
    for tensor in (t for g in onnx_graphs(document.proto.graph) for t in g.initializer):
        document.inline(tensor)
    strict(document.proto)
    return document.proto, outcome


def strict(model: onnx.ModelProto) -> None:
    """What ``full_check`` does, for outputs without a shape too."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    for value in inferred.graph.output:
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(inferred)


def onnx_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *(g for i in inner for g in onnx_graphs(i))]


def run(model: onnx.ModelProto, feed: Feed) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {i.name: i.type for i in session.get_inputs()}
    return list(session.run(None, {n: a.astype(F16) if types[n] == "tensor(float16)" else a for n, a in feed.items()}))


def agree(model: onnx.ModelProto, feed: Feed, tolerance: float = 2e-3) -> tuple[onnx.ModelProto, Float16Result]:
    """The halved model, with and without float32 inputs, loads and gives what onnx's evaluator makes of the original."""
    wanted = ReferenceEvaluator(model).run(None, feed)
    results = []
    for keep in (False, True):
        made, outcome = halved(model, keep=keep)
        for a, b, info in zip(wanted, run(made, feed), made.graph.output, strict=True):
            assert np.asarray(b).dtype == (np.asarray(a).dtype if keep or a.dtype != F32 else F16), info.name
            assert np.allclose(a, np.asarray(b, a.dtype), rtol=tolerance, atol=tolerance), info.name
        results.append((made, outcome))
    assert [o.name for o in made.graph.output] == [o.name for o in model.graph.output]
    assert [i.name for i in made.graph.input] == [i.name for i in model.graph.input]
    return results[-1]


def x(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def ops(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def casts(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(n.input[0], n.attribute[0].i) for n in model.graph.node if n.op_type == "Cast"]


def types(model: onnx.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in model.graph.initializer}


def single(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, Any],
    opset: int = 17,
) -> onnx.ModelProto:
    return graphs.model(nodes, inputs, outputs, constants, opset)


def test_what_is_cast_from_float64_is_no_size() -> None:
    nodes = [node("Cast", ["x"], ["f"], to=1), node("MatMul", ["f", "w"], ["p"]), node("Cast", ["p"], ["y"], to=11)]
    model = single(nodes, {"x": ("float64", [2, 8])}, {"y": "float64"}, {"w": x(8, 8)})
    halves, _ = agree(model, {"x": x(2, 8, seed=1).astype(np.float64)}, 1e-2)
    assert types(halves) == {"w": HALF}


def test_a_cast_to_float32_is_rewritten() -> None:
    """A Cast whose ``to`` stays float32 while its output is called float16: the model does not load."""
    model = single(
        [node("Cast", ["i"], ["c"], to=FLOAT), node("Mul", ["c", "w"], ["y"])],
        {"i": (I64, ["n", 4])}, {"y": F32}, {"w": x(4)},
    )  # fmt: skip
    made, outcome = agree(model, {"i": np.arange(8).reshape(2, 4)})
    assert casts(made) == [("i", HALF), ("y_float16", FLOAT)] and outcome.casts == 1


def test_an_initializer_that_both_types_are_wanted_of() -> None:
    """One constant for a node that takes float16 and one that cannot: neither may see the other's type."""
    model = single(
        [node("Resize", ["x", "", "s"], ["r"], mode="nearest"), node("Mul", ["r", "s"], ["y"])],
        {"x": (F32, [1, 1, 2, 4])}, {"y": F32}, {"s": np.array([1, 1, 2, 1], F32)},
    )  # fmt: skip
    made, _ = agree(model, {"x": x(1, 1, 2, 4)})
    assert types(made) == {"s": HALF, "s_float32": FLOAT}


def test_a_large_shared_initializer_is_stored_once() -> None:
    model = single(
        [node("MatMul", ["x", "w"], ["m"]), node("LayerNormalization", ["m", "g"], ["l"]),
         node("RandomUniformLike", ["w"], ["z"], low=0.5, high=0.5001), node("Add", ["l", "l"], ["y"])],
        {"x": (F32, ["n", 20])}, {"y": F32, "z": F32}, {"w": x(20, 30), "g": x(30)},
    )  # fmt: skip
    made, outcome = halved(model)
    assert types(made) == {"w": HALF, "g": HALF} and ("w", FLOAT) in casts(made)
    assert "RandomUniformLike" in outcome.in_float32
    assert np.allclose(run(made, {"x": x(2, 20)})[1], 0.5, atol=1e-3)


def test_inputs_that_must_stay_float32() -> None:
    """Resize's scales and NonMaxSuppression's boxes have no float16 form; their neighbours do."""
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 1.1], [2, 2, 3, 3]]], F32)
    model = single(
        [node("Mul", ["b", "one"], ["bb"]), node("NonMaxSuppression", ["bb", "p", "k", "t"], ["y"]),
         node("Relu", ["bb"], ["r"])],
        {"b": (F32, [1, 3, 4]), "p": (F32, [1, 1, 3])}, {"y": I64, "r": F32},
        {"one": np.ones(1, F32), "k": np.array([3]), "t": np.array([0.5], F32)},
    )  # fmt: skip
    made, _ = agree(model, {"b": boxes, "p": np.array([[[0.9, 0.8, 0.7]]], F32)})
    assert types(made)["t"] == FLOAT and types(made)["one"] == HALF


def test_sizes_keep_their_digits() -> None:
    """Scales computed from shapes: in float16, 2049 is 2048, and the image has another size."""
    nodes = [
        node("Shape", ["x"], ["i"]), node("Cast", ["i"], ["f"], to=FLOAT), node("Mul", ["f", "h"], ["g"]),
        node("Cast", ["g"], ["j"], to=onnx.TensorProto.INT64), node("Expand", ["one", "j"], ["y"]),
    ]  # fmt: skip
    model = single(nodes, {"x": (F32, ["n"])}, {"y": F32}, {"h": np.array([3], F32), "one": np.ones(1, F32)})
    made, _ = halved(model)
    assert run(made, {"x": x(2049)})[0].shape == (6147,)


def test_constants_and_filled_tensors() -> None:
    nodes = [
        node("Constant", [], ["a"], value=onnx.numpy_helper.from_array(np.array([2], F32))),
        node("Constant", [], ["b"], value_float=3.0),
        node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]),
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["zero"]),
        node("ConstantOfShape", ["s"], ["half"], value=onnx.numpy_helper.from_array(np.array([0.5], F32))),
        node("Sum", ["x", "a", "b", "c", "zero", "half"], ["y"]),
    ]
    made, outcome = agree(single(nodes, {"x": (F32, [2, 3])}, {"y": F32}, {}), {"x": x(2, 3)})
    assert set(types(made).values()) == {HALF} and len(outcome.constants) == 5


def test_constants_and_inputs_as_outputs() -> None:
    nodes = [
        node("Constant", [], ["c"], value_float=3.0),
        node("Add", ["x", "c"], ["y"]),
        node("Add", ["x", "w"], ["z"]),
    ]
    model = single(nodes, {"x": (F32, [2])}, {"y": F32, "c": F32, "w": F32, "x": F32, "z": F32}, {"w": x(2)})
    agree(model, {"x": x(2)})


def test_an_output_that_others_read() -> None:
    """With float32 outputs, what reads the output inside the graph still gets float16."""
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["y"], ["z"]), node("Shape", ["y"], ["s"])]
    made, outcome = agree(single(nodes, {"x": (F32, [2, 3])}, {"y": F32, "z": F32, "s": I64}, {}), {"x": x(2, 3)})
    assert outcome.casts == 3
    by_output = {n.output[0]: n for n in made.graph.node}
    assert by_output["z_float16"].input[0] == "y_float16"


def branch(
    name: str, nodes: Sequence[onnx.NodeProto], output: str, constants: dict[str, Any] | None = None
) -> onnx.GraphProto:
    made = [onnx.numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
    out = onnx.helper.make_tensor_value_info(output, FLOAT, None)
    return onnx.helper.make_graph(list(nodes), name, [], [out], made)


@pytest.mark.parametrize("flag", [True, False])
def test_if_with_captured_values(flag: bool) -> None:
    """Branches capture an activation, an initializer, and a value that is kept in float32."""
    then = branch("t", [node("Mul", ["a", "w"], ["t1"]), node("Add", ["t1", "k"], ["t2"])], "t2", {"k": x(4, seed=3)})
    other = branch("e", [node("Identity", ["rand"], ["e1"])], "e1")
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("RandomUniformLike", ["a"], ["rand"], low=0.5, high=0.5001),
        node("If", ["c"], ["r"], then_branch=then, else_branch=other),
        node("Neg", ["r"], ["y"]),
    ]
    model = single(nodes, {"x": (F32, [2, 4]), "c": (np.bool_, [])}, {"y": F32}, {"w": x(4, seed=2)})
    feed = {"x": x(2, 4), "c": np.array(flag)}
    wanted = -(np.maximum(feed["x"], 0) * x(4, seed=2) + x(4, seed=3)) if flag else np.full((2, 4), -0.5)
    for keep in (True, False):
        made, _ = halved(model, keep=keep)
        assert np.allclose(run(made, feed)[0], wanted, atol=5e-3)
        (control,) = (n for n in made.graph.node if n.op_type == "If")
        for attribute in control.attribute:
            assert attribute.g.output[0].type.tensor_type.elem_type == HALF


def test_loop_and_scan() -> None:
    value = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [node("Add", ["acc", "step"], ["next"]), node("Identity", ["go"], ["on"]), node("Mul", ["next", "w"], ["seen"])],
        "body",
        [value("i", onnx.TensorProto.INT64, []), value("go", onnx.TensorProto.BOOL, []), value("acc", FLOAT, [2])],
        [value("on", onnx.TensorProto.BOOL, []), value("next", FLOAT, [2]), value("seen", FLOAT, [2])],
        [onnx.numpy_helper.from_array(np.array([0.5], F32), "step")],
    )  # fmt: skip
    scan = onnx.helper.make_graph(
        [node("Add", ["s", "e"], ["s2"]), node("Identity", ["s2"], ["o"])], "scan",
        [value("s", FLOAT, [2]), value("e", FLOAT, [2])], [value("s2", FLOAT, [2]), value("o", FLOAT, [2])],
    )  # fmt: skip
    nodes = [
        node("Loop", ["n", "go_on", "x"], ["last", "all"], body=body),
        node("Scan", ["last", "all"], ["sum", "y"], body=scan, num_scan_inputs=1),
    ]
    model = single(
        nodes, {"x": (F32, [2])}, {"sum": F32, "y": F32}, {"n": np.array(3), "go_on": np.array(True), "w": x(2)}
    )
    agree(model, {"x": x(2)}, 5e-3)


def test_model_local_functions() -> None:
    inner = onnx.helper.make_function(
        "local", "Scale", ["a"], ["b"],
        [node("Constant", [], ["k"], value_float=0.25), node("Mul", ["a", "k"], ["b"])], [onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = onnx.helper.make_node("Scale", ["x"], ["m"], domain="local")
    model = graphs.model([call, node("Exp", ["m"], ["y"])], {"x": (F32, [3])}, {"y": F32}, {}, 17, [inner])
    made, outcome = agree(model, {"x": x(3)})
    assert not made.functions and "model-local functions inlined (Scale)" in outcome.notes


def test_sequences_stay_float32() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]), node("SequenceConstruct", ["a", "x"], ["s"]),
        node("ConcatFromSequence", ["s"], ["c"], axis=0), node("Neg", ["c"], ["y"]),
    ]  # fmt: skip
    made, outcome = agree(single(nodes, {"x": (F32, [2, 3])}, {"y": F32}, {}), {"x": x(2, 3)})
    assert outcome.in_float32.keys() == {"SequenceConstruct"} and HALF in dict(casts(made)).values()


def test_random_quantized_and_machine_learning_ops_are_kept() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("Scaler", ["d"], ["n"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0]),
        node("Relu", ["n"], ["y"]),
    ]  # fmt: skip
    model = single(nodes, {"x": (F32, [2, 3])}, {"y": F32}, {"s": np.array(0.1, F32), "z": np.array(3, np.uint8)})
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 2))
    made, outcome = halved(model)
    assert outcome.in_float32.keys() == {"QuantizeLinear", "DequantizeLinear", "Scaler"}
    assert types(made)["s"] == FLOAT and len(casts(made)) == 2  # in: kept as it is; Relu's input and output
    quantized = np.clip(np.rint(x(2, 3) / F32(0.1)) + 3, 0, 255) - 3
    assert np.allclose(run(made, {"x": x(2, 3)})[0], np.maximum(quantized * 0.1 * 2, 0), atol=2e-3)


def test_operators_of_onnxruntime_follow_its_schemas() -> None:
    fused = onnx.helper.make_node("SkipLayerNormalization", ["x", "x", "g"], ["y"], domain="com.microsoft")
    model = single([fused], {"x": (F32, [1, 2, 8])}, {"y": F32}, {"g": np.ones(8, F32)})
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    document = load(model)
    outcome = ConvertToFloat16(keep_io_types=True)(document)
    assert not outcome.in_float32 and outcome.casts == 2
    twice = 2 * x(1, 2, 8)
    wanted = (twice - twice.mean(-1, keepdims=True)) / twice.std(-1, keepdims=True)
    assert np.allclose(run(document.proto, {"x": x(1, 2, 8)})[0], wanted, atol=1e-2)


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0]], ids=str)
@pytest.mark.parametrize("between", ["", "Identity"])
def test_a_moved_batch_before_a_product_stays_float32(order: list[int], between: str, tmp_path: Path) -> None:
    width = 8 if order[-1] == 2 else 3  # of float16, onnxruntime's own fusion of both ends the process
    nodes = [node("Relu", ["x"], ["r"]), node("Transpose", ["r"], ["t"], perm=order)]
    nodes += [node(between, ["t"], ["i"])] if between else []
    nodes += [node("MatMul", ["i" if between else "t", "w"], ["y"])]
    model = single(nodes, {"x": (F32, [3, 2, 8])}, {"y": F32}, {"w": x(width, 4)})
    made, outcome = halved(model, keep=False)
    assert outcome.in_float32.keys() >= {"Transpose", "MatMul"} and types(made)["w"] == FLOAT
    code = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    onnx.save(made, tmp_path / "half.onnx")
    subprocess.run([sys.executable, "-c", code, tmp_path / "half.onnx"], check=True)
    agree(model, {"x": x(3, 2, 8)})


def test_unknown_operators_are_kept() -> None:
    odd = onnx.helper.make_node("Odd", ["a"], ["b"], domain="nobody")
    model = single([node("Relu", ["x"], ["a"]), odd, node("Relu", ["b"], ["y"])], {"x": (F32, [2])}, {"y": F32}, {})
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    document = load(model)
    outcome = ConvertToFloat16(keep_io_types=False)(document)
    assert outcome.in_float32 == {"Odd": "its types are not known"}
    assert casts(document.proto) == [("a", FLOAT), ("b", HALF)]


def beam_search() -> tuple[onnx.ModelProto, Feed]:
    """A search over a decoder: a graph of BeamSearch, whose weights lie inside of it and in the main graph."""
    vocabulary, width, i32 = 50, 32, onnx.TensorProto.INT32
    info = onnx.helper.make_tensor_value_info
    inner = [
        node("Gather", ["table", "input_ids"], ["e"]),
        node("MatMul", ["e", "square"], ["h"]),
        node("Reshape", ["h", "heads"], ["k"]),
        node("Transpose", ["k"], ["t"], perm=[0, 2, 1, 3]),
        node("Unsqueeze", ["t", "first"], ["u"]),
        node("Concat", ["u", "u"], ["kv"], axis=0),
        node("Concat", ["past_0", "kv"], ["present_0"], axis=3),
        node("MatMul", ["h", "head"], ["logits"]),
    ]
    inputs = [(n, i32, ["b", "s"]) for n in ("input_ids", "position_ids")] + [("attention_mask", i32, ["b", "t"])]
    cache = [2, "b", 2, "p", width // 2]
    decoder = onnx.helper.make_graph(
        inner, "decoder",
        [*(info(*each) for each in inputs), info("past_0", FLOAT, cache)],
        [info("logits", FLOAT, ["b", "s", vocabulary]), info("present_0", FLOAT, cache)],
        [onnx.numpy_helper.from_array(a, n) for n, a in (
            ("heads", np.array([0, 0, 2, width // 2])), ("first", np.array([0])), ("square", x(width, width)))],
    )  # fmt: skip
    names = ["ids", "longest", "shortest", "beams", "results", "penalty", "repetition"]
    search = node(
        "BeamSearch", names, ["found"], domain="com.microsoft", eos_token_id=1, pad_token_id=0, no_repeat_ngram_size=0,
        early_stopping=0, model_type=0, decoder=decoder,
    )  # fmt: skip
    ints, floats = {n: (np.int32, [1]) for n in names[1:5]}, {n: (F32, [1]) for n in names[5:]}
    constants = {"table": x(vocabulary, width), "head": x(width, vocabulary, seed=1)}
    model = single([search], {"ids": (np.int32, ["b", "s"]), **ints, **floats}, {"found": np.int32}, constants, 14)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    feed = {n: np.array([v], np.int32) for n, v in zip(names[1:5], (8, 1, 2, 1), strict=True)}
    return model, {"ids": np.array([[5, 7, 9]], np.int32), **feed, **{n: np.ones(1, F32) for n in floats}}


def test_graphs_of_foreign_operators_stay_float32_and_their_weights_are_cast() -> None:
    model, feed = beam_search()
    made, outcome = halved(model)
    assert np.array_equal(run(model, feed)[0], run(made, feed)[0])
    assert outcome.in_float32 == {"BeamSearch": "so do the graphs in its attributes"}
    assert {c.name for c in outcome.constants if c.half} == {"table", "head", "square"}


def test_sparse_constants_are_halved() -> None:
    values = onnx.numpy_helper.from_array(x(3), "values")
    sparse = onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(np.array([0, 5, 9]), "places"), [4, 3])
    nodes = [node("Constant", [], ["w"], sparse_value=sparse), node("MatMul", ["x", "w"], ["y"])]
    model = single(nodes, {"x": (F32, [2, 4])}, {"y": F32}, {})
    made, _ = halved(model)
    assert np.allclose(run(model, {"x": x(2, 4)})[0], run(made, {"x": x(2, 4)})[0], atol=1e-2)


def test_means_of_squares_stay_float32() -> None:
    """Squares of numbers above 255 are infinite in float16; onnxruntime 1.23 to 1.27 loads no two such chains of float16."""
    nodes = [
        node("Pow", ["x", "two"], ["square"]), node("ReduceMean", ["square"], ["mean"], axes=[-1]),
        node("Add", ["mean", "epsilon"], ["sum"]), node("Sqrt", ["sum"], ["root"]), node("Div", ["x", "root"], ["y"]),
    ]  # fmt: skip
    constants = {"two": np.float32(2), "epsilon": np.array([1e-5], F32)}
    agree(single(nodes, {"x": (F32, [2, 8])}, {"y": F32}, constants), {"x": 1000 * x(2, 8)})


def test_a_file_that_does_not_load_is_refused_without_a_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: ConvertToFloat16, document: Document) -> Float16Result:
        document.proto.graph.node[0].op_type = "Nonsense"
        del document.proto.graph.initializer[:]
        return Float16Result(True, ())

    monkeypatch.setattr(ConvertToFloat16, "__call__", spoil)
    with pytest.raises(ModelError, match="cannot load it"):
        onnxquant.quantize(graphs.matmul(), tmp_path / "out.onnx", format="f16", whole_graph=True, proof=False)
    assert not list(tmp_path.iterdir())


def test_a_float16_file_whose_casts_take_more_than_it_saves_is_refused(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "i"], ["z"]), node("Mul", ["x", "c"], ["y"])]
    constants = {"table": np.arange(10_000), "c": np.array([2, 3], F32)}
    model = single(nodes, {"x": (F32, [2]), "i": (I64, [1])}, {"y": F32, "z": I64}, constants)
    with pytest.raises(ModelError, match=r"would be larger: \d+ bytes, \d+ now"):
        onnxquant.quantize(model, tmp_path / "out.onnx", format="f16", whole_graph=True, keep_io_types=True)
    assert not list(tmp_path.iterdir())


def test_a_float16_file_that_would_be_no_smaller_is_refused(tmp_path: Path) -> None:
    """Only inputs are float32: Casts come on top, and no constant becomes smaller."""
    model = single([node("Floor", ["x"], ["y"])], {"x": (F32, [2])}, {"y": F32}, {})
    with pytest.raises(ModelError, match="would be no smaller: 0 bytes of constants, as now"):
        onnxquant.quantize(model, tmp_path / "out.onnx", format="f16", whole_graph=True, keep_io_types=True)
    assert not list(tmp_path.iterdir())


def test_masks_are_clamped_and_large_numbers_kept() -> None:
    """-3.4e38 stands for minus infinity; 100000 is a number, and its node computes in float32."""
    model = single(
        [node("Add", ["x", "mask"], ["m"]), node("Softmax", ["m"], ["p"]),
         node("Div", ["x", "big"], ["d"]), node("Add", ["p", "d"], ["y"])],
        {"x": (F32, [1, 4])}, {"y": F32},
        {"mask": np.array([0, 0, np.finfo(F32).min, 0], F32), "big": np.array([100_000], F32)},
    )  # fmt: skip
    made, outcome = agree(model, {"x": x(1, 4)})
    clamped = {c.name: (c.half, c.clamped) for c in outcome.constants}
    assert (
        clamped == {"mask": (True, 1), "big": (False, 0)}
        and "'big' holds numbers beyond 65504" in outcome.in_float32["Div"]
    )
    (mask,) = (onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "mask")
    assert mask.tolist() == [0, 0, -65504, 0]


def test_a_guard_against_zero_stays_one() -> None:
    """1e-12 is zero in float16, and 0 / 0 is not a number."""
    model = single(
        [node("Max", ["x", "e"], ["m"]), node("Div", ["x", "m"], ["y"])],
        {"x": (F32, [2])},
        {"y": F32},
        {"e": np.array([1e-12], F32)},
    )
    made, outcome = halved(model)
    assert np.array_equal(run(made, {"x": np.array([0, 3], F32)})[0], [0, 1])
    assert outcome.constants[0].subnormal == 1 and outcome.constants[0].flushed == 0


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(F32, st.integers(2, 20)))
def test_values_are_rounded_to_nearest(values: Any) -> None:
    half, constant = to_half(values, "v")
    finite = np.isfinite(values)
    assert np.isfinite(half[finite]).all() and np.array_equal(np.isnan(half), np.isnan(values))
    with np.errstate(over="ignore"):
        plain = values.astype(F16)
    inside = finite & (np.abs(values) < 65520)
    assert np.array_equal(half[inside], plain[inside])
    assert constant.clamped == (finite & ~inside).sum() and np.abs(half[finite & ~inside] == 65504).all() is not False
    assert constant.flushed == ((values != 0) & (half == 0)).sum() <= constant.subnormal


def test_optional_constants_and_overridable_inputs() -> None:
    """A constant that is an input too, of IR 4 and later, cannot be both: it is frozen, and that is said."""
    model = single(
        [node("Clip", ["x", "", "hi"], ["y"])],
        {"x": (F32, [2]), "hi": (F32, [])},
        {"y": F32},
        {"hi": np.array(0.5, F32)},
    )
    made, outcome = halved(model)
    assert [i.name for i in made.graph.input] == ["x"] and "1 constants no longer graph inputs" in outcome.notes


def test_a_model_without_float32_is_refused() -> None:
    with pytest.raises(ModelError, match="holds no float32"):
        halved(single([node("Neg", ["x"], ["y"])], {"x": (I64, [2])}, {"y": I64}, {}))


def test_a_model_of_bfloat16_is_refused_for_its_own_reason() -> None:
    weights = {"w": np.ones((4, 4), ml_dtypes.bfloat16)}
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    model = single([node("MatMul", ["x", "w"], ["y"])], {"x": (bfloat16, [2, 4])}, {"y": bfloat16}, weights)
    with pytest.raises(ModelError, match="holds no float32 to make float16 of: its weights are bfloat16 already"):
        halved(model)


def test_twice_is_once(tmp_path: Path) -> None:
    made, _ = halved(graphs.matmul(), keep=True)
    again, outcome = halved(made, keep=True)
    feed = {"x": x(2, 3, 48)}
    assert np.array_equal(run(made, feed)[0], run(again, feed)[0]) and not outcome.constants


# ---- quantize and the command line ----


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("external", ["never", "always"])
def test_quantize(keep: bool, external: str, default_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    report = onnxquant.quantize(
        default_model, out, format="f16", whole_graph=True, keep_io_types=keep, external_data=external, min_sqnr=40
    )
    assert report.passed and report.proof
    assert report.output_bytes and 1.8 < report.original_bytes / report.output_bytes < 2.1
    assert 40 < min(d.sqnr_db for d in report.proof.deployed.values()) < 100
    session = ort.InferenceSession(out)
    assert session.get_inputs()[0].type == ("tensor(float)" if keep else "tensor(float16)")
    assert Path(f"{out}.data").exists() == (external == "always")
    onnx.checker.check_model(str(out), full_check=True)
    assert all(s.decision.dtype == "float32" and s.decision.format for s in report.sites)
    assert any("is float16 now" in n for n in report.proof.notes) != keep


def test_on_the_command_line(default_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    asked = ["quantize", str(default_model), "-o", str(out), "--format", "f16", "--whole-graph"]
    plan = CliRunner().invoke(main, [*asked, "--dry-run"])
    assert plan.exit_code == 0 and "nothing was written" in plan.stdout and not out.exists()
    done = CliRunner().invoke(main, [*asked, "--keep-io-types", "--json"])
    assert done.exit_code == 0, done.output
    assert "float16 throughout" in " ".join(json.loads(done.stdout)["notes"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep_io_types": True}, "keep_io_types is an option of float16"),
        ({"whole_graph": True}, "whole_graph is for format f16, not the default"),
        ({"whole_graph": True, "format": "int8"}, "whole_graph is for format f16, not int8; float16 goes with every format"),
        ({"whole_graph": True, "format": "f16", "exclude": "head"}, "whole_graph takes no exclude"),
        ({"whole_graph": True, "format": "f16", "target": "onnx"}, "whole_graph takes no recipe or target"),
        ({"whole_graph": True, "format": "f16", "recipe": {"rules": []}}, "whole_graph takes no recipe or target"),
    ],
)
def test_options_that_contradict(options: Any, says: str, default_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        onnxquant.quantize(default_model, tmp_path / "out.onnx", **options)


@pytest.mark.parametrize(("op", "shape"), [("MatMul", (4, 4)), ("Mul", (4,)), ("Div", ())])
def test_factors_too_small_for_float16_stay_float32_with_their_node(op: str, shape: tuple[int, ...]) -> None:
    small = (graphs.weight(*shape) * 1e-8 if shape else np.float32(1e-9)).astype(F32)
    back = np.float32(1e8) if op != "Div" else np.float32(1e-9)
    nodes = [node(op, ["x", "small"], ["a"]), node("Mul", ["a", "back"], ["b"]), node("Relu", ["b"], ["y"])]
    model = single(nodes, {"x": (F32, [1, 4])}, {"y": F32}, {"small": small, "back": back})
    _, outcome = agree(model, {"x": x(1, 4)})
    assert "'small' holds numbers too small for float16" in outcome.in_float32[op]
    assert {c.name: c.half for c in outcome.constants} == {"small": False, "back": False}


def test_small_numbers_that_are_added_become_float16() -> None:
    nodes = [node("Conv", ["x", "w", "b"], ["c"]), node("Add", ["c", "b"], ["d"]), node("Max", ["d", "eps"], ["y"])]
    constants = {"w": graphs.weight(1, 1, 3), "b": np.full(1, 1e-9, F32), "eps": np.array(1e-12, F32)}
    model = single(nodes, {"x": (F32, [1, 1, 8])}, {"y": F32}, constants)
    _, outcome = agree(model, {"x": x(1, 1, 8)})
    assert all(c.half for c in outcome.constants) and not outcome.in_float32
