"""QuantizeLinear and DequantizeLinear as they stand in a model: structure, and outputs against independent runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnx.reference
import pytest
from agreement import outputs
from graphs import node, weight
from rounded import inserted, marked, optimized, sqnr_db, static, values

import onnxquant
from onnxquant.observers.codes import Codes
from onnxquant.plan.activations import StaticRecord

X = ("float32", [1, 4, 8, 8])
FEED = {"x": graphs.rng(3).standard_normal((1, 4, 8, 8)).astype(np.float32)}


def conv(x: str, y: str, **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [x, "w"], [y], pads=[1, 1, 1, 1], **attributes)


def model(nodes: list[onnx.NodeProto], *names: str, opset: int = 17) -> onnx.ModelProto:
    return graphs.model(nodes, {"x": X}, dict.fromkeys(names, "float32"), {"w": 4 * weight(4, 4, 3, 3)}, opset)


def residual() -> onnx.ModelProto:
    nodes = [
        conv("x", "a"),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        conv("p", "c"),
        node("Add", ["p", "c"], ["d"]),
        conv("d", "y"),
    ]
    return model(nodes, "y")


def captured() -> onnx.ModelProto:
    """A quantized tensor that both branches of an If read, and that is an output too."""

    def branch(op: str, name: str) -> onnx.GraphProto:
        info = onnx.helper.make_tensor_value_info(name, 1, None)
        return onnx.helper.make_graph([node(op, ["a"], [name])], name, [], [info])

    nodes = [
        conv("x", "a"),
        conv("a", "b"),
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "m"], ["never"]),
        node("If", ["never"], ["c"], then_branch=branch("Neg", "t"), else_branch=branch("Abs", "e")),
        node("Add", ["b", "c"], ["y"]),
    ]
    return model(nodes, "y", "a")


def float_reader() -> onnx.ModelProto:
    """Inputs and made tensors that an op reads in float and another as codes."""
    nodes = [
        conv("x", "a"),
        node("Erf", ["x"], ["f"]),
        conv("a", "b"),
        node("Erf", ["a"], ["g"]),
        node("Add", ["b", "g"], ["h"]),
        node("Add", ["h", "f"], ["y"]),
    ]
    return model(nodes, "y")


def gemm() -> onnx.ModelProto:
    constants = {"w": 4 * weight(256, 16), "c": weight(16), "v": 4 * weight(3, 16), "d": weight(1, 3)}
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Gemm", ["f", "w", "c"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Gemm", ["b", "v", "d"], ["y"], transB=1),
    ]
    return graphs.model(nodes, {"x": X}, {"y": "float32"}, constants)


MODELS = {"residual": residual, "captured": captured, "float reader": float_reader, "gemm": gemm}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("codes", [Codes(), Codes(8, True), Codes(8, True, True), Codes(8, False, True)], ids=str)
def test_conversions_stand_around_integer_ops_alone(make: Any, codes: Codes) -> None:
    before = make()
    made = inserted(before, FEED, codes)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True), full_check=True)
    for kind in ("input", "output"):
        assert list(getattr(made.graph, kind)) == list(getattr(before.graph, kind))
    to, back = marked(made, "QuantizeLinear"), marked(made, "DequantizeLinear")
    readers = {n.input[0]: n for n in back}
    assert to and len(to) == len(back)
    for n in to:
        assert readers[n.output[0]].input[1:] == n.input[1:]
    names = [n.name for n in made.graph.node if n.name]
    assert len(names) == len(set(names))
    made_names = [o for n in made.graph.node for o in n.output]
    assert len(made_names) == len(set(made_names))
    kinds = {t.name: t.data_type for t in made.graph.initializer}
    assert {kinds[n.input[2]] for n in to} == {codes.elem_type}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_outputs_are_those_of_the_reference_and_optimizing_changes_little(make: Any) -> None:
    before = make()
    before.opset_import[0].version = 19  # the first whose QuantizeLinear the reference has
    made = inserted(before, FEED)
    session = onnx.reference.ReferenceEvaluator(made)
    expected = dict(zip(session.output_names, session.run(None, FEED), strict=True))
    plain, fused, exact = outputs(made, FEED), optimized(made, FEED), outputs(before, FEED)
    for name, value in exact.items():
        assert sqnr_db(np.asarray(expected[name]), plain[name]) > 40
        # onnxruntime makes int8, one scale per tensor, of the float weight of a Gemm between codes.
        assert sqnr_db(plain[name], fused[name]) > 25
        # 8 bits cost something, and not everything.
        assert 25 < sqnr_db(value, plain[name]) < 70


def test_moves_have_the_scale_of_their_input() -> None:
    made = inserted(residual(), FEED)
    sides = {n.input[0]: list(n.input[1:]) for n in marked(made, "QuantizeLinear")}
    assert sides["b"] == sides["p"]
    assert len({tuple(s) for s in sides.values()}) == len(sides) - 1


def test_outputs_and_captured_names_hold_the_rounded_values() -> None:
    before = captured()
    made = inserted(before, FEED)
    assert {"a/exact"} <= {o for n in made.graph.node for o in n.output}
    scale, _ = static(before, FEED).codes.parameters(*static(before, FEED).ranges["a"])
    a = outputs(made, FEED)["a"] / np.float64(scale)
    assert np.abs(a - np.rint(a)).max() < 1e-4
    assert not np.array_equal(outputs(made, FEED)["a"], outputs(before, FEED)["a"])


def test_a_float_reader_reads_the_plain_input_and_the_rounded_tensor() -> None:
    made = inserted(float_reader(), FEED)
    read = {n.output[0]: n.input[0] for n in made.graph.node if n.op_type == "Erf"}
    assert read["f"] == "x"  # not made by a unit: no reason to round it for those that need no codes
    assert read["g"] == "a/dequantized"


def test_codes_equal_those_of_float64_arithmetic() -> None:
    before = residual()
    made = inserted(before, FEED)
    found = {n.input[0]: n for n in marked(made, "QuantizeLinear")}
    scale, zero = static(before, FEED).codes.parameters(*static(before, FEED).ranges["x"])
    codes = values(made, [found["x"].output[0]], FEED)[found["x"].output[0]]
    x = FEED["x"].astype(np.float64) / float(scale)
    sure = np.abs(x - np.floor(x) - 0.5) > 1e-4  # a tie may go either way in float32
    assert sure.mean() > 0.99
    assert np.array_equal(codes[sure], np.clip(np.rint(x) + int(zero), 0, 255)[sure])


def test_sixteen_bit_codes_have_only_float_errors() -> None:
    before = graphs.model(
        [conv("x", "a"), conv("a", "y")], {"x": X}, {"y": "float32"}, {"w": 4 * weight(4, 4, 3, 3)}, opset=21
    )
    made = inserted(before, FEED, Codes(16))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(made), full_check=True)
    assert 70 < sqnr_db(outputs(before, FEED)["y"], outputs(made, FEED)["y"]) < 110


def test_a_nested_graph_reads_no_decoded_values_through_a_move(tmp_path: Path) -> None:
    """ONNX Runtime breaks down where it puts the DequantizeLinear behind the move."""
    then, other = graphs.captures("r", "Relu", "Neg")
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["d"])]
    nodes += [node("Transpose", ["b"], ["t"], perm=[1, 0]), node("Transpose", ["t"], ["r"], perm=[1, 0])]
    nodes += [node("If", ["c"], ["e"], then_branch=then, else_branch=other), node("Add", ["d", "e"], ["y"])]
    weights = {"w": weight(64, 64), "v": weight(64, 64, seed=1), "c": np.array(True)}
    proto = graphs.model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, weights)
    samples = [{"x": graphs.rng(i).standard_normal((4, 64), np.float32)} for i in range(3)]
    onnxquant.quantize(
        proto, tmp_path / "out.onnx", data=samples, activations="static", threads=1, proof=False, smooth=False
    )
    graph = onnx.load(tmp_path / "out.onnx").graph
    makers = {o: n for n in graph.node for o in n.output}
    maker = makers[makers["r"].input[0]] if "r" in makers else None
    assert maker is None or maker.op_type == "Clip"


def test_operators_that_read_infinity_stay_in_float(tmp_path: Path) -> None:
    """A mask of minus infinity before a Relu: the sum with it has no range, the convolutions around it have."""
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Log", ["z"], ["mask"]), node("Add", ["a", "mask"], ["b"])]
    nodes += [node("Relu", ["b"], ["c"]), node("Conv", ["c", "v"], ["y"])]
    activations = _static(nodes, tmp_path)
    assert activations.integer_kernels == 2 and {"x", "c"} <= activations.tensors.keys()
    assert "mask" not in activations.tensors


def test_a_kernel_that_reads_infinity_says_so(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Log", ["z"], ["mask"]), node("Conv", ["mask", "v"], ["b"])]
    nodes += [node("Relu", ["b"], ["c"]), node("Concat", ["a", "c"], ["y"], axis=1)]
    reason = "'mask' has no range, because it holds infinity in sample 0"
    assert _static(nodes, tmp_path).left_in_float == {"b": reason}


def _static(nodes: list[onnx.NodeProto], folder: Path) -> StaticRecord:
    """Static activations of two convolutions, whose second input has zeros."""
    shape = ("float32", ["n", 16, 8, 8])
    weights = {"w": weight(16, 16, 1, 1), "v": weight(16, 16, 1, 1, seed=1)}
    proto = graphs.model(nodes, {"x": shape, "z": shape}, {"y": "float32"}, weights)
    x = [graphs.rng(i).standard_normal((2, 16, 8, 8), np.float32) for i in range(4)]
    samples = [{"x": values, "z": (values > 0).astype(np.float32)} for values in x]
    report = onnxquant.quantize(proto, folder / "out.onnx", data=samples, activations="static", threads=1, proof=False)
    assert isinstance(report.activations, StaticRecord)
    return report.activations
