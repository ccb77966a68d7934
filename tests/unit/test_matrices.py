"""Einsums and products with stacks as products with one matrix, on onnxruntime and ONNX's reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model
from onnx import helper

import onnxquant
from onnxquant.passes.prepare.matrices import MultiplyMatrices

LENGTHS = {"b": 2, "s": 3, "t": 5, "d": 32, "h": 4, "k": 24, "e": 8}
# Rounding of float32 sums in another order.
WITHIN = 1e-4


def normal(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def einsum(
    equation: str, x: str, weight: str, *, is_first: bool = False, opened: str = "bs"
) -> tuple[onnx.ModelProto, Any]:
    """A model of one Einsum, and a feed; letters in ``opened`` are axes of any length."""
    inputs = ["w", "x"] if is_first else ["x", "w"]
    shape = [letter if letter in opened else LENGTHS[letter] for letter in x]
    node = helper.make_node("Einsum", inputs, ["y"], equation=equation, name="einsum")
    proto = model([node], {"x": ("float32", shape)}, {"y": "float32"}, {"w": normal(*(LENGTHS[c] for c in weight))})
    return proto, {"x": normal(*(LENGTHS[c] for c in x))}


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("bsd,dk->bsk", {"MatMul": 1}),
        ("bsd,kd->bsk", {"MatMul": 1}),
        ("bsd,dhk->bshk", {"MatMul": 1, "Reshape": 1}),  # queries of Keras
        ("bshk,hkd->bsd", {"MatMul": 1, "Reshape": 1}),  # its last product
        ("bshk,khd->bsd", {"MatMul": 1, "Reshape": 1}),
        ("bsd,hdk->bhsk", {"MatMul": 1, "Reshape": 1, "Transpose": 1}),
        ("bhsk,hkd->bsd", {"MatMul": 1, "Reshape": 1, "Transpose": 1}),
        ("bds,dk->bks", {"MatMul": 1, "Transpose": 2}),
        ("sd,dhk->shk", {"MatMul": 1, "Reshape": 1}),
        (" b s d , d k -> b s k ", {"MatMul": 1}),
        ("bsd,dk", {"MatMul": 1}),  # without an output: letters in order, "bks" here
    ],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_an_einsum_becomes_a_product(equation: str, expected: dict[str, int], is_first: bool) -> None:
    terms, arrow, output = equation.partition("->")
    x, weight = terms.replace(" ", "").split(",")
    whole = f"{weight},{x}{arrow}{output}" if is_first else equation
    proto, feed = einsum(whole, x, weight, is_first=is_first)
    document, note = agreement.check(proto, MultiplyMatrices(), feed, within=WITHIN)
    assert note == "1 Einsums and products with stacks multiply matrices"
    found = dict(agreement.ops(document))
    assert found == ({**expected, "Transpose": 1} if equation == "bsd,dk" else expected)
    assert len(document.proto.graph.initializer[0].dims) == 2


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("equation", ["...d,dhk->...hk", "...d,kd->...k", "d...,dk->...k"])
def test_an_ellipsis_stands_for_axes_of_the_operand(axes: int, equation: str) -> None:
    x = "bst"[:axes]
    x = f"d{x}" if equation.startswith("d") else f"{x}d"
    proto, feed = einsum(equation, x, equation.split(",")[1].split("->")[0])
    document, note = agreement.check(proto, MultiplyMatrices(), feed, within=WITHIN)
    assert note and agreement.ops(document)["MatMul"] == 1


def test_any_order_of_axes_gives_the_same() -> None:
    random = np.random.default_rng(11)
    for _ in range(60):
        free, summed, columns = (
            "bst"[: random.integers(1, 4)],
            "dh"[: random.integers(1, 3)],
            "ke"[: random.integers(1, 3)],
        )
        x, weight, output = (
            "".join(random.permutation(list(t))) for t in (free + summed, summed + columns, free + columns)
        )
        proto, feed = einsum(f"{x},{weight}->{output}", x, weight, opened=free)
        document, note = agreement.check(proto, MultiplyMatrices(), feed, within=WITHIN)
        assert note and "Einsum" not in agreement.ops(document), (x, weight, output)


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("bhsd,hdk->bhsk", "h is in all terms"),
        ("bsd,dk->bk", "s is summed over in the operand alone"),
        ("bsd,dhk->bsk", "h is summed over in the weight alone"),
        ("hd,hdk->k", "no row is left"),
        ("bsd,...d->bs...", "the weight has an ellipsis"),
    ],
)
def test_other_einsums_stay(equation: str, reason: str) -> None:
    x, weight = equation.split("->")[0].split(",")
    proto, feed = einsum(equation, x, weight.replace("...", "hk"))
    _, note = agreement.check(proto, MultiplyMatrices(), feed, within=0)
    assert note is None, reason


@pytest.mark.parametrize(
    ("shape", "stack", "feed"),
    [
        (["b", 1, "s", 32], [4, 32, 24], (2, 1, 3, 32)),
        (["s", 32], [4, 32, 24], (3, 32)),
        (["b", 1, 1, "s", 32], [4, 2, 32, 24], (2, 1, 1, 3, 32)),
        ([1, "b", "s", 32], [4, 1, 32, 24], (1, 2, 3, 32)),
        ([1, "s", 32], [2, 4, 32, 24], (1, 3, 32)),
    ],
)
@pytest.mark.parametrize("opset", [12, 17])
def test_a_stack_becomes_one_matrix(shape: list[Any], stack: list[int], feed: tuple[int, ...], opset: int) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="heads")
    proto = model([node], {"x": ("float32", shape)}, {"y": "float32"}, {"w": normal(*stack)}, opset=opset)
    document, note = agreement.check(proto, MultiplyMatrices(), {"x": normal(*feed)}, within=WITHIN)
    assert note and list(document.proto.graph.initializer[0].dims) == [32, np.prod(stack) // 32]


@pytest.mark.parametrize(
    ("shape", "feed"), [(["b", "h", "s", 32], (2, 4, 3, 32)), ([2, 4, 3, 32], (2, 4, 3, 32)), ([32], (32,))]
)
def test_stacks_that_meet_as_many_matrices_stay(shape: list[Any], feed: tuple[int, ...]) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    proto = model([node], {"x": ("float32", shape)}, {"y": "float32"}, {"w": normal(4, 32, 24)})
    _, note = agreement.check(proto, MultiplyMatrices(), {"x": normal(*feed)}, within=0)
    assert note is None


def test_readers_share_a_matrix_or_none_is_made() -> None:
    def twice(second: str) -> Any:
        nodes = [
            helper.make_node("Einsum", ["x", "w"], [y], equation=e) for y, e in (("y", "bsd,dhk->bshk"), ("z", second))
        ]
        proto = model(
            nodes, {"x": ("float32", ["b", "s", 32])}, {"y": "float32", "z": "float32"}, {"w": normal(32, 4, 24)}
        )
        return agreement.check(proto, MultiplyMatrices(), {"x": normal(2, 3, 32)}, within=WITHIN)

    document, note = twice("bsd,dhk->bhsk")
    assert note and len(document.proto.graph.initializer[0].dims) == 2 and agreement.ops(document)["MatMul"] == 2
    assert twice("bsd,dhk->bskh")[1] is None  # the columns would have another order: the weight would be there twice


def attention(folder: Path) -> Path:
    """Queries, keys, values and the last product as Keras writes them, with open lengths."""
    nodes = [
        helper.make_node("Einsum", ["x", n], [n.lower()], equation="bsd,dhk->bshk", name=n) for n in ("Q", "K", "V")
    ]
    nodes += [
        helper.make_node("Einsum", ["q", "k"], ["scores"], equation="bshk,bthk->bhst"),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("Einsum", ["p", "v"], ["mixed"], equation="bhst,bthk->bshk"),
        helper.make_node("Einsum", ["mixed", "O"], ["y"], equation="bshk,hkd->bsd", name="O"),
    ]
    shapes = {**dict.fromkeys("QKV", (128, 4, 32)), "O": (4, 32, 128)}
    weights = {name: normal(*shape) * np.float32(0.1) for name, shape in shapes.items()}
    proto = model(nodes, {"x": ("float32", ["b", "s", 128])}, {"y": "float32"}, weights)
    onnx.save(proto, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(
    ("options", "kernels"),
    [
        ({"bits": 4, "target": "ort"}, {"MatMulNBits"}),
        ({"activations": "dynamic", "target": "ort"}, {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}),
        ({"activations": "static"}, {"MatMul"}),
    ],
)
def test_kernels_take_the_products_of_einsums(tmp_path: Path, options: dict[str, Any], kernels: set[str]) -> None:
    data = [{"x": normal(1, 16, 128) * (1 + i / 8)} for i in range(8)]
    report = onnxquant.quantize(attention(tmp_path), tmp_path / "q.onnx", data=data, **options)
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    assert len([n for n in nodes if n.op_type in kernels]) == 4
    assert len([n for n in nodes if n.op_type == "Einsum"]) == 2  # of queries and keys, weights and values
    assert report.verdict.worst_sqnr_db is not None and report.verdict.worst_sqnr_db > 25
    targets = {"dynamic": "dynamic", "static": "qdq"}
    assert {site.decision.target for site in report.encoded} == {targets.get(str(options.get("activations")), "ort")}
