"""Where integers are: a small graph per trap."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import node, weight

from onnxquant.activations.op_kinds import OpKind
from onnxquant.activations.placement import Cause, FloatKernel, Placement, place
from onnxquant.graph.editor import GraphEditor

X = ("float32", [1, 4, 8, 8])
EXCLUDED = FloatKernel(Cause.WEIGHT, "excluded")


def conv(x: str, y: str, name: str = "", w: str = "w", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [x, w], [y], name=name, pads=[1, 1, 1, 1], **attributes)


def model(nodes: list[onnx.NodeProto], *outputs: str, **initializers: Any) -> onnx.ModelProto:
    weights = {"w": weight(4, 4, 3, 3), **initializers}
    used = {name for n in nodes for name in n.input} | {"w"}
    weights = {k: v for k, v in weights.items() if k in used}
    return graphs.model(nodes, {"x": X}, dict.fromkeys(outputs, "float32"), weights)


def placed(proto: onnx.ModelProto, *excluded: str, clamps: bool = True) -> Placement:
    return place(GraphEditor(proto.graph), dict.fromkeys(excluded, EXCLUDED), clamps=clamps)


def ops(found: Placement) -> list[str]:
    return [u.node.op_type for u in found.units]


def test_an_add_between_kernels_is_integer_and_the_last_one_is_float() -> None:
    found = placed(
        model(
            [
                conv("x", "a"),
                node("Relu", ["a"], ["b"]),
                conv("b", "c"),
                node("Add", ["b", "c"], ["d"]),
                conv("d", "y"),
            ],
            "y",
        )
    )
    assert ops(found) == ["Conv", "Conv", "Add", "Conv"]
    assert list(found.tensors) == ["x", "b", "c", "d", "y"]
    assert found.tensors["b"].produced and found.tensors["b"].bounds == (0.0, float("inf"))
    assert not found.tensors["x"].produced
    assert all(t.source == t.name for t in found.tensors.values())
    # Nothing reads the sum as codes: it would only be a conversion more.
    last = placed(model([conv("x", "a"), conv("a", "b"), node("Add", ["a", "b"], ["y"])], "y"))
    assert ops(last) == ["Conv", "Conv"]
    assert last.tensors["b"].produced


def test_concat_has_a_scale_of_its_own() -> None:
    nodes = [
        conv("x", "a"),
        conv("x", "b"),
        node("Concat", ["a", "b"], ["c"], axis=1),
        conv("c", "y", w="v"),
    ]
    found = placed(model(nodes, "y", v=weight(4, 8, 3, 3)))
    assert ops(found) == ["Conv", "Conv", "Concat", "Conv"]
    assert found.sources == ["x", "a", "b", "c", "y"]


def test_squeeze_and_excitation_computes_on_integers() -> None:
    nodes = [
        conv("x", "a"),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Conv", ["p", "v"], ["q"]),
        node("Sigmoid", ["q"], ["s"]),
        node("Mul", ["a", "s"], ["m"]),
        conv("m", "y"),
    ]
    found = placed(model(nodes, "y", v=weight(4, 4, 1, 1)))
    assert ops(found) == ["Conv", "GlobalAveragePool", "Conv", "Sigmoid", "Mul", "Conv"]
    assert set(found.tensors) == {"x", "a", "p", "q", "s", "m", "y"}


def test_functions_in_squeeze_and_excitation_are_between_codes() -> None:
    """That before a mean and a product, and the gate."""
    nodes = [
        conv("x", "a"),
        node("HardSwish", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["p"]),
        node("Conv", ["p", "v"], ["q"]),
        node("HardSigmoid", ["q"], ["s"]),
        node("Mul", ["b", "s"], ["m"]),
        conv("m", "y"),
    ]
    found = placed(model(nodes, "y", v=weight(4, 4, 1, 1)))
    assert [(u.kind, u.outputs) for u in found.units if u.kind is not OpKind.KERNEL] == [
        (OpKind.FUNCTION, ["b"]), (OpKind.VALUE, ["p"]), (OpKind.FUNCTION, ["s"]), (OpKind.VALUE, ["m"]),
    ]  # fmt: skip
    assert set(found.tensors) == {"x", "a", "b", "p", "q", "s", "m", "y"}
    assert all(tensor.produced for name, tensor in found.tensors.items() if name != "x")


@pytest.mark.parametrize(
    "nodes",
    [
        [conv("x", "a"), node("HardSwish", ["a"], ["b"]), node("GlobalAveragePool", ["b"], ["p"]), conv("p", "y")],
        [node("MatMul", ["x", "m"], ["a"]), node("HardSwish", ["a"], ["b"]), node("MatMul", ["b", "m"], ["y"])],
        [node("HardSwish", ["x"], ["b"]), conv("b", "y")],
        [conv("x", "a"), node("HardSwish", ["a"], ["y"])],
        [conv("x", "a"), node("HardSigmoid", ["a"], ["b"]), node("Mul", ["x", "b"], ["c"]), conv("c", "y")],
    ],
    ids=["for a mean alone", "behind a product that may return floats", "first", "last", "beside floats"],
)
def test_values_of_a_function_are_not_rounded_for_nothing(nodes: list[onnx.NodeProto]) -> None:
    found = placed(model(nodes, "y", m=weight(8, 8)))
    assert not any(u.kind is OpKind.FUNCTION for u in found.units)


def test_moves_share_the_range_of_their_input() -> None:
    nodes = [
        conv("x", "a"),
        node("Relu", ["a"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        node("Transpose", ["p"], ["t"], perm=[0, 1, 3, 2]),
        conv("t", "y"),
    ]
    found = placed(model(nodes, "y"))
    assert ops(found) == ["Conv", "MaxPool", "Transpose", "Conv"]
    assert {found.tensors[n].source for n in ("r", "p", "t")} == {"r"}
    assert found.tensors["t"].bounds == (0.0, float("inf"))
    assert found.sources == ["x", "r", "y"]


def test_moves_before_the_first_kernel_and_after_the_last_stay_in_float() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), conv("t", "a"), node("Flatten", ["a"], ["y"])]
    assert ops(placed(model(nodes, "y"))) == ["Conv"]


@pytest.mark.parametrize("tail", [[], [node("Identity", ["b"], ["y"])], [conv("b", "y")]], ids=["out", "float", "conv"])
def test_the_bounds_of_a_clamp_after_a_kernel_become_those_of_its_codes(tail: list[onnx.NodeProto]) -> None:
    output = "y" if tail else "b"
    clip = node("Clip", ["a", "low", "high"], ["b"])
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    found = placed(model([conv("x", "a"), clip, *tail], output, **bounds))
    assert found.units[0].clamps[0].op_type == "Clip"
    assert found.tensors["b"].produced and found.tensors["b"].bounds == (0.0, 6.0)
    assert "a" not in found.tensors


def test_a_clamp_stays_a_node_where_its_input_is_read_again() -> None:
    nodes = [conv("x", "a"), node("Relu", ["a"], ["b"]), conv("b", "c"), node("Sub", ["c", "a"], ["y"])]
    found = placed(model(nodes, "y"))
    assert not any(u.clamps for u in found.units)
    assert found.tensors["a"].produced and not found.tensors["b"].produced


def test_symmetric_codes_cannot_clamp() -> None:
    found = placed(model([conv("x", "a"), node("Relu", ["a"], ["b"]), conv("b", "y")], "y"), clamps=False)
    assert not any(u.clamps for u in found.units)
    assert found.tensors["a"].produced and not found.tensors["b"].produced


def test_a_relu_after_a_gemm_with_float_output_stays() -> None:
    proto = graphs.model(
        [node("Gemm", ["x", "w", "c"], ["a"]), node("Relu", ["a"], ["y"])],
        {"x": ("float32", [1, 8])},
        {"y": "float32"},
        {"w": weight(8, 5), "c": weight(5)},
    )
    found = placed(proto)
    assert list(found.tensors) == ["x"]
    assert found.split_gemms == ("a",)


def test_a_gemm_is_split_only_where_its_output_is_float_with_a_c_or_for_one_that_corrects_it() -> None:
    proto = graphs.model(
        [
            node("Gemm", ["x", "w", "c"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Gemm", ["b", "v", "d"], ["e"]),
            node("Gemm", ["b", "v"], ["f"]),
        ],
        {"x": ("float32", [1, 8])},
        {"e": "float32", "f": "float32"},
        {"w": weight(8, 5), "c": weight(5), "v": weight(5, 3), "d": weight(3)},
    )
    found = placed(proto)
    assert found.split_gemms == ("e", "f")
    assert set(found.tensors) == {"x", "b"}


def test_a_float_reader_of_a_codes_tensor_reads_the_rounded_values() -> None:
    nodes = [conv("x", "a"), conv("a", "b"), node("Erf", ["a"], ["c"]), node("Sub", ["b", "c"], ["y"])]
    found = placed(model(nodes, "y"))
    assert ops(found) == ["Conv", "Conv"]
    assert found.tensors["a"].readers == {"b"} and found.tensors["a"].produced


def test_nodes_without_names_are_excluded_by_their_output() -> None:
    nodes = [conv("x", "a"), conv("a", "y")]
    assert all(not n.name for n in nodes)
    found = placed(model(nodes, "y"), "a")
    assert found.float_kernels == {"a": EXCLUDED}
    assert [u.name for u in found.units] == ["y"]


def test_kernels_are_excluded_by_name_or_output() -> None:
    proto = model([conv("x", "a", "first"), conv("a", "y", "second")], "y")
    for key in ("first", "a"):
        found = placed(proto, key)
        assert found.float_kernels == {"first": EXCLUDED} and [u.name for u in found.units] == ["second"]
    assert not placed(proto, "first", "second").units


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (node("MatMul", ["x", "x"], ["y"]), "both operands"),
        (node("Gemm", ["x", "w", "c"], ["y"], alpha=0.5), "alpha"),
        (node("Gemm", ["x", "w", "c"], ["y"], transA=1), "transA"),
        (node("Gemm", ["x", "w", "x"], ["y"]), "bias is not constant"),
        (node("Gemm", ["x", "w", "full"], ["y"]), "one value per column"),
        (node("MatMul", ["x", "stack"], ["y"]), "more than two axes"),
        (node("MatMul", ["c", "w"], ["y"]), "input is constant"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_kernels_that_stay_in_float_have_a_cause_and_a_reason(made: onnx.NodeProto, reason: str) -> None:
    constants = {"w": weight(5, 5), "c": weight(5), "full": weight(5, 5), "stack": weight(1, 5, 5)}
    used = {k: v for k, v in constants.items() if k in made.input}
    found = placed(graphs.model([made], {"x": ("float32", [5, 5])}, {"y": "float32"}, used))
    assert not found.units
    kernel = found.float_kernels["y"]
    assert kernel.cause is Cause.OPERATOR and reason in kernel.reason


def test_transposed_convolutions_stay_in_float() -> None:
    found = placed(model([node("ConvTranspose", ["x", "w"], ["y"])], "y"))
    reason = "ONNX Runtime has no integer kernel for it"
    assert found.float_kernels == {"y": FloatKernel(Cause.OPERATOR, reason)}


def test_linear_resizing_and_constant_operands_are_float() -> None:
    sizes = {"s": np.array([1, 1, 2, 2], np.float32), "k": np.float32(2)}
    linear = [conv("x", "a"), node("Resize", ["a", "", "s"], ["b"], mode="linear"), conv("b", "y")]
    nearest = [conv("x", "a"), node("Resize", ["a", "", "s"], ["b"], mode="nearest"), conv("b", "y")]
    scaled = [conv("x", "a"), node("Mul", ["a", "k"], ["b"]), conv("b", "y")]
    assert ops(placed(model(linear, "y", **sizes))) == ["Conv", "Conv"]
    assert ops(placed(model(nearest, "y", **sizes))) == ["Conv", "Resize", "Conv"]
    assert ops(placed(model(scaled, "y", **sizes))) == ["Conv", "Conv"]
    assert OpKind.KERNEL in {u.kind for u in placed(model(scaled, "y", **sizes)).units}


def test_clip_without_constant_bounds_is_float() -> None:
    nodes = [conv("x", "a"), node("ReduceMax", ["x"], ["m"], keepdims=0), node("Clip", ["a", "", "m"], ["b"])]
    found = placed(model([*nodes, conv("b", "y")], "y"))
    assert ops(found) == ["Conv", "Conv"]
    assert {"a", "b"} <= set(found.tensors)


def test_a_clip_whose_range_leaves_out_zero_is_float() -> None:
    """Codes hold zero, so that saturation would let values through that the Clip does not."""
    nodes = [conv("x", "a"), node("Clip", ["a", "low"], ["b"]), conv("b", "y")]
    found = placed(model(nodes, "y", low=np.float32(0.5)))
    assert not any(u.clamps for u in found.units) and "a" in found.tensors


def test_pooling_and_resizing_read_codes_behind_a_float_op_too() -> None:
    nodes = [
        conv("x", "a"),
        node("Elu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("p", "c"),
        node("Elu", ["c"], ["d"]),
        node("Resize", ["d", "", "s"], ["r"], mode="nearest"),
        conv("r", "y"),
    ]
    found = placed(model(nodes, "y", s=np.float32([1, 1, 2, 2])))
    assert ops(found) == ["Conv", "MaxPool", "Conv", "Resize", "Conv"]
    assert found.tensors["p"].source == "b" and found.tensors["r"].source == "d"
