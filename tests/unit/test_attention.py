"""Attention of onnxruntime's optimizer: its product becomes a node of its own, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, rng, weight

import onnxquant
from onnxquant.graph.io import load
from onnxquant.graph.names import MICROSOFT
from onnxquant.passes.prepare.attention import SplitAttention

WIDTH = 128
X = rng().standard_normal((2, 5, WIDTH), np.float32)
MASK = np.int32([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]])


def attention(
    *,
    mask: bool = True,
    bias: bool = True,
    values: int = 256,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
    **attributes: Any,
) -> onnx.ModelProto:
    """Attention of four heads."""
    sizes = {} if values == WIDTH else {"qkv_hidden_sizes": [WIDTH, WIDTH, values]}
    inputs = ["x", "w", "b" if bias else "", "mask" if mask else ""]
    constants = {"w": weight(WIDTH, 2 * WIDTH + values)} | ({"b": weight(2 * WIDTH + values)} if bias else {})
    made = node("Attention", inputs, list(outputs), domain=MICROSOFT, num_heads=4, **sizes, **attributes)
    shapes: dict[str, tuple[Any, Any]] = {"x": ("float32", ["b", "s", WIDTH])}
    shapes |= {"mask": ("int32", ["b", "s"])} if mask else {}
    proto = model([made], shapes, dict.fromkeys(outputs, "float32"), constants, opset)
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return proto


@pytest.mark.parametrize(
    "options",
    [{}, {"mask": False}, {"bias": False}, {"values": WIDTH * 4, "opset": 12}, {"unidirectional": 1, "scale": 0.3}],
    ids=str,
)
def test_a_product_is_taken_out_of_attention(options: dict[str, Any]) -> None:
    proto = attention(**options)
    feed = {"x": X} | ({"mask": MASK} if options.get("mask", True) else {})
    document = load(proto)
    assert SplitAttention()(document).changed
    assert [n.op_type for n in document.proto.graph.node] == ["MatMul", "Split", "MultiHeadAttention"]
    before, after = (agreement.outputs(p, feed)["y"] for p in (proto, agreement.complete(document)))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_small_weights_and_attention_with_state_stay() -> None:
    small = attention(values=4)
    small.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight(8, 24), "w"))
    for proto in (small, attention(outputs=("y", "present")), attention(do_rotary=1)):
        assert not SplitAttention()(load(proto)).changed


@pytest.mark.parametrize(
    ("values", "options", "op"),
    [
        (256, {"bits": 4}, "MatMulNBits"),
        (WIDTH, {"bits": 4}, "Attention"),
        (WIDTH, {"activations": "dynamic"}, "DynamicProducts1"),
    ],
)
def test_the_product_of_attention_runs_on_codes(tmp_path: Path, values: int, options: dict[str, Any], op: str) -> None:
    out = tmp_path / "out.onnx"
    report = onnxquant.quantize(attention(values=values), out, data=[{"x": X, "mask": MASK}], threads=1, **options)
    assert not report.problems and op in {n.op_type for n in onnx.load(out).graph.node}
