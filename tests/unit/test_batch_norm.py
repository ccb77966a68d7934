"""Batch norms and other per-channel scales and shifts, folded into linear ops."""

from __future__ import annotations

from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import captures, model, node, rng, weight

from onnxquant.passes.simplify.batch_norm import FoldBatchNorms

Arrays = dict[str, np.ndarray[Any, Any]]


def norm(channels: int, prefix: str = "n", dtype: str = "float32") -> Arrays:
    r = rng(7)
    return {
        f"{prefix}_s": r.normal(1, 0.5, channels).astype(dtype),
        f"{prefix}_b": r.normal(0, 1, channels).astype(dtype),
        f"{prefix}_m": r.normal(0, 1, channels).astype(dtype),
        f"{prefix}_v": r.uniform(0.1, 4, channels).astype(dtype),
    }


def batch_norm(source: str, target: str, prefix: str = "n", **attributes: Any) -> onnx.NodeProto:
    inputs = [source, *(f"{prefix}_{p}" for p in "sbmv")]
    return node("BatchNormalization", inputs, [target], name=f"{prefix}_norm", **attributes)


def image(*shape: int) -> dict[str, Any]:
    return {"x": rng(3).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 14, 15, 17, 21, 22])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 6])
def test_after_conv(opset: int, bias: bool, group: int) -> None:
    inputs = ["x", "w", "b"][: 2 + bias]
    proto = model(
        [node("Conv", inputs, ["c"], name="conv", group=group), batch_norm("c", "y", epsilon=0.01)],
        {"x": ("float32", [1, 6, 7, 7])},
        {"y": "float32"},
        {"w": weight(12, 6 // group, 3, 3), "b": weight(12, seed=4)} | norm(12),
        opset,
    )
    # Below opset 14 ONNX's reference computes batch norms as in training.
    document, note = agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 7), reference=opset >= 14)
    assert note and agreement.ops(document) == {"Conv": 1}
    assert document.proto.graph.node[0].name == "conv"


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("spatial", [1, 2])
def test_after_conv_transpose(group: int, spatial: int) -> None:
    size = [5] * spatial
    proto = model(
        [node("ConvTranspose", ["x", "w"], ["c"], group=group, strides=[2] * spatial), batch_norm("c", "y")],
        {"x": ("float32", [2, 6, *size])},
        {"y": "float32"},
        {"w": weight(6, 4, *[3] * spatial)} | norm(4 * group),
    )
    # ONNX's reference computes groups of ConvTranspose only since recently, and 1-D ones not at all.
    document, _ = agreement.check(proto, FoldBatchNorms(), image(2, 6, *size), reference=False)
    assert agreement.ops(document) == {"ConvTranspose": 1}


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [(), (8,), (1, 8), (1,), None])
def test_after_gemm(trans_b: int, bias: tuple[int, ...] | None) -> None:
    w = weight(*((8, 6) if trans_b else (6, 8)))
    constants = {"w": w} | norm(8) | ({} if bias is None else {"c": weight(*bias, seed=2) if bias else np.float32(3)})
    inputs = ["x", "w"] + ([] if bias is None else ["c"])
    proto = model(
        [node("Gemm", inputs, ["g"], transB=trans_b, alpha=0.5, beta=3.0), batch_norm("g", "y")],
        {"x": ("float32", ["n", 6])},
        {"y": "float32"},
        constants,
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), image(5, 6))
    assert agreement.ops(document) == {"Gemm": 1}


def test_gemm_with_a_bias_per_row_is_left() -> None:
    proto = model(
        [node("Gemm", ["x", "w", "c"], ["g"]), batch_norm("g", "y")],
        {"x": ("float32", [5, 6])},
        {"y": "float32"},
        {"w": weight(6, 8), "c": weight(5, 1)} | norm(8),
    )
    document, note = agreement.check(proto, FoldBatchNorms(), image(5, 6))
    assert note is None and agreement.ops(document) == {"Gemm": 1, "BatchNormalization": 1}


@pytest.mark.parametrize("added", [True, False])
def test_after_matmul_a_norm_becomes_an_add(added: bool) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"], name="product")]
    nodes += [node("Add", ["b", "m"], ["a"], name="bias")] if added else []
    proto = model(
        [*nodes, batch_norm("a" if added else "m", "y")],
        {"x": ("float32", ["n", 6])},
        {"y": "float32"},
        {"w": weight(6, 8), "b": weight(8, seed=4)} | norm(8),
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), image(5, 6))
    assert [(n.op_type, n.name) for n in document.proto.graph.node] == [("MatMul", "product"), ("Add", "n_norm")]


def test_after_a_matmul_of_three_axes_the_norm_is_over_another_axis() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["m"]), batch_norm("m", "y")],
        {"x": ("float32", [2, 8, 6])},
        {"y": "float32"},
        {"w": weight(6, 8)} | norm(8),
    )
    document, note = agreement.check(proto, FoldBatchNorms(), image(2, 8, 6))
    assert note is None and agreement.ops(document)["BatchNormalization"] == 1


def test_a_matmul_and_its_bias_are_left() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        {"x": ("float32", [2, 6])},
        {"y": "float32"},
        {"w": weight(6, 8), "b": weight(8)},
    )
    assert agreement.check(proto, FoldBatchNorms())[1] is None


@pytest.mark.parametrize("shape", [(12, 1, 1), (1, 12, 1, 1), (1, 1, 1), ()])
@pytest.mark.parametrize("swapped", [False, True])
def test_written_out_norms(shape: tuple[int, ...], swapped: bool) -> None:
    def operand(seed: int) -> Any:
        return rng(seed).uniform(0.5, 2, shape).astype(np.float32)

    steps = [("Sub", "m"), ("Mul", "s"), ("Add", "b"), ("Div", "d")]
    nodes, name = [node("Conv", ["x", "w"], ["c"])], "c"
    for op, constant in steps:
        inputs = [constant, name] if swapped and op != "Div" else [name, constant]
        nodes.append(node(op, inputs, [f"{op}_y"]))
        name = f"{op}_y"
    proto = model(
        nodes,
        {"x": ("float32", [1, 6, 7, 7])},
        {name: "float32"},
        {"w": weight(12, 6, 3, 3)} | {c: operand(i) for i, (_, c) in enumerate(steps)},
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 7))
    assert agreement.ops(document) == {"Conv": 1}


@pytest.mark.parametrize("shape", [(12,), (5, 5), (1, 12, 5, 1), (1, 1, 12, 1, 1), (2, 1, 1, 1)])
def test_operands_that_vary_elsewhere_or_widen_are_left(shape: tuple[int, ...]) -> None:
    channels = 12
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "k"], ["y"])],
        {"x": ("float32", [1, 6, 7, 14 if shape == (12,) else 7])},
        {"y": "float32"},
        {"w": weight(channels, 6, 3, 3), "k": weight(*shape)},
    )
    feed = image(1, 6, 7, 14 if shape == (12,) else 7)
    document, note = agreement.check(proto, FoldBatchNorms(), feed)
    assert note is None and agreement.ops(document) == {"Conv": 1, "Mul": 1}


def test_an_operand_that_widens_one_channel_is_left() -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "k"], ["y"])],
        {"x": ("float32", [1, 6, 7, 7])},
        {"y": "float32"},
        {"w": weight(1, 6, 3, 3), "k": weight(4, 1, 1)},
    )
    assert agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 7))[1] is None


def test_a_constant_divided_by_the_result_is_left() -> None:
    proto = model(
        [node("Conv", ["x", "w", "b"], ["c"]), node("Div", ["k", "c"], ["y"])],
        {"x": ("float32", [1, 6, 7, 7])},
        {"y": "float32"},
        {"w": weight(12, 6, 3, 3), "b": np.full(12, 50, np.float32), "k": weight(12, 1, 1)},
    )
    assert agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 7))[1] is None


@pytest.mark.parametrize(
    "case", ["read twice", "output", "captured", "training", "old training", "no constant", "huge"]
)
def test_traps(case: str) -> None:
    constants = {"w": weight(12, 6, 3, 3)} | norm(12)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        batch_norm("c", "y", **({"training_mode": 1} if case == "training" else {})),
    ]
    outputs, inputs = {"y": "float32"}, {"x": ("float32", [1, 6, 7, 7])}
    feed, opset = image(1, 6, 7, 7), 17
    if case == "read twice":
        nodes.append(node("Relu", ["c"], ["z"]))
        outputs["z"] = "float32"
    elif case == "output":
        outputs["c"] = "float32"
    elif case == "captured":
        inner = captures("c", "Relu", "Neg")
        nodes.append(node("If", ["which"], ["z"], then_branch=inner[0], else_branch=inner[1]))
        outputs["z"], constants["which"] = "float32", np.array(True)
    elif case == "training":
        nodes[1].output.extend(["rm", "rv"])
    elif case == "old training":
        opset = 9
        nodes[1].output.extend(["rm", "rv", "sm", "sv"])
    elif case == "no constant":
        del constants["n_s"]
        inputs["n_s"] = ("float32", [12])
        feed["n_s"] = np.ones(12, np.float32)
    else:
        constants["n_s"][3], constants["n_v"][3] = 1e38, 1e-30
    proto = model(nodes, inputs, outputs, constants, opset)
    feeds = [] if "training" in case or case == "huge" else [feed]
    document, note = agreement.check(proto, FoldBatchNorms(), *feeds)
    assert note is None and agreement.ops(document)["BatchNormalization"] == 1


@pytest.mark.parametrize("case", ["same norms", "other norms", "read without a norm", "captured"])
def test_a_shared_weight_is_stored_once(case: str) -> None:
    """Readers that need one folded weight get it; others keep their norms."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        batch_norm("c", "p"),
        node("Conv", ["x", "w", "b"], ["d"]),
        batch_norm("d", "q", prefix="k"),
    ]
    outputs = dict.fromkeys("pq", "float32")
    if case == "read without a norm":
        nodes.append(node("Conv", ["x", "w", "b"], ["e"]))
        outputs["e"] = "float32"
    if case == "captured":
        then, other = captures("w", "Neg", "Abs")
        nodes.append(node("If", ["which"], ["e"], then_branch=then, else_branch=other))
        outputs["e"] = "float32"
    second = {k: v * (2 if case == "other norms" else 1) for k, v in zip(norm(12, "k"), norm(12).values(), strict=True)}
    constants = {"w": weight(12, 6, 3, 3), "b": weight(12), "which": np.array(True)} | norm(12) | second
    proto = model(nodes, {"x": ("float32", [1, 6, 7, 7])}, outputs, constants)
    document, _ = agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 7))
    assert agreement.ops(document).get("BatchNormalization", 0) == (0 if case == "same norms" else 2)
    assert len([t for t in document.proto.graph.initializer if len(t.dims) == 4]) == 1


def test_channels_last_behind_a_transpose() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1], name="last"),
            node("Sub", ["t", "m"], ["sub"]),
            node("Mul", ["sub", "s"], ["y"]),
        ],
        {"x": ("float32", [1, 6, 7, 7])},
        {"y": "float32"},
        {"w": weight(12, 6, 3, 3), "m": weight(1, 1, 1, 12), "s": weight(12, seed=9)},
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 7))
    assert [n.op_type for n in document.proto.graph.node] == ["Conv", "Transpose"]


@pytest.mark.parametrize(
    ("op", "axes", "opset", "bias"),
    [
        ("Squeeze", [3], 17, [1, 12, 1]),
        ("Squeeze", [-1], 12, [12, 1]),
        ("Squeeze", [0, 3], 17, [12, 1]),
        ("Unsqueeze", [0, 5], 17, [12, 1, 1, 1]),
        ("Unsqueeze", [2], 12, [12, 1, 1, 1]),
    ],
)
def test_a_bias_behind_a_change_of_axes(op: str, axes: list[int], opset: int, bias: list[int]) -> None:
    """As TensorFlow's converter writes a convolution of one axis."""
    attributes = {"axes": axes} if opset < 13 else {}
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node(op, ["c"] if attributes else ["c", "axes"], ["s"], **attributes),
            node("Add", ["s", "b"], ["y"]),
        ],
        {"x": ("float32", [1, 6, 7, 3])},
        {"y": "float32"},
        {"w": weight(12, 6, 3, 3), "b": weight(*bias), **({} if attributes else {"axes": np.array(axes)})},
        opset,
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), image(1, 6, 7, 3))
    assert [n.op_type for n in document.proto.graph.node] == ["Conv", op]


def test_a_constant_along_another_axis_behind_a_squeeze_stays() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Squeeze", ["c", "axes"], ["s"]),
            node("Add", ["s", "b"], ["y"]),
        ],
        {"x": ("float32", [1, 6, 14, 3])},
        {"y": "float32"},
        {"w": weight(12, 6, 3, 3), "b": weight(1, 1, 12), "axes": np.array([3])},
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), image(1, 6, 14, 3))
    assert [n.op_type for n in document.proto.graph.node] == ["Conv", "Squeeze", "Add"]


def test_in_a_nested_graph_with_weights_outside() -> None:
    def branch(name: str, prefix: str) -> onnx.GraphProto:
        own = "w" if name == "then" else "v"
        nodes = [node("Conv", ["x", own], [f"{name}_c"]), batch_norm(f"{name}_c", f"{name}_y", prefix=prefix)]
        return onnx.helper.make_graph(nodes, name, [], [onnx.helper.make_tensor_value_info(f"{name}_y", 1, None)])

    proto = model(
        [node("If", ["which"], ["y"], then_branch=branch("then", "n"), else_branch=branch("else", "k"))],
        {"x": ("float32", [1, 6, 7, 7]), "which": ("bool", [])},
        {"y": "float32"},
        {"w": weight(12, 6, 3, 3), "v": weight(12, 6, 3, 3)} | norm(12) | {k: v * 2 for k, v in norm(12, "k").items()},
    )
    feeds = [image(1, 6, 7, 7) | {"which": np.array(v)} for v in (True, False)]
    document, _ = agreement.check(proto, FoldBatchNorms(), *feeds)
    assert agreement.ops(document) == {"If": 1, "Conv": 2}


def test_float16() -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), batch_norm("c", "y")],
        {"x": ("float16", [1, 6, 7, 7])},
        {"y": "float16"},
        {"w": weight(12, 6, 3, 3, dtype="float16")} | norm(12, dtype="float16"),
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), {"x": image(1, 6, 7, 7)["x"].astype("float16")}, within=3e-3)
    assert agreement.ops(document) == {"Conv": 1}


def test_float64() -> None:
    proto = model(
        [node("Gemm", ["x", "w"], ["g"]), batch_norm("g", "y")],
        {"x": ("float64", ["n", 6])},
        {"y": "float64"},
        {"w": weight(6, 8, dtype="float64")} | norm(8, dtype="float64"),
    )
    document, _ = agreement.check(proto, FoldBatchNorms(), {"x": image(5, 6)["x"].astype("float64")}, within=1e-14)
    assert agreement.ops(document) == {"Gemm": 1}


def test_float64_arithmetic_rounded_once() -> None:
    """Against the formula in float64: each weight is the nearest float32."""
    constants = {"w": weight(12, 6, 3, 3), "b": weight(12, seed=4)} | norm(12)
    proto = model(
        [node("Conv", ["x", "w", "b"], ["c"]), batch_norm("c", "y", epsilon=1e-3)],
        {"x": ("float32", [1, 6, 7, 7])},
        {"y": "float32"},
        constants,
    )
    document, _ = agreement.check(proto, FoldBatchNorms())
    made = {t.name: document.array(t) for t in document.proto.graph.initializer}
    s, b, m, v = (constants[f"n_{p}"].astype(np.float64) for p in "sbmv")
    factor = s / np.sqrt(v + float(np.float32(1e-3)))
    assert np.array_equal(
        made["w"], (constants["w"].astype(np.float64) * factor[:, None, None, None]).astype(np.float32)
    )
    assert np.array_equal(made["b"], (constants["b"].astype(np.float64) * factor + b - m * factor).astype(np.float32))
