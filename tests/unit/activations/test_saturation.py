"""The emulation of vpmaddubsw against a scalar one, and of whole kernels against convolutions done by hand."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from agreement import outputs
from graphs import node

from onnxquant.graph.io import load
from onnxquant.validation import saturation
from onnxquant.validation.saturation import emulate, kernels, largest_pairs, multiply


def scalar(x: list[int], w: list[int]) -> tuple[int, int]:
    """vpmaddubsw and the additions after it, as the instruction's description says; and how many pairs are cut."""
    total, cut = 0, 0
    for k in range(0, len(x), 2):
        pair = sum(a * b for a, b in zip(x[k : k + 2], w[k : k + 2], strict=True))
        total += min(max(pair, -32768), 32767)
        cut += not -32768 <= pair <= 32767
    return total, cut


@pytest.mark.parametrize("contracted", [1, 2, 7, 64])
def test_emulated_products_equal_those_of_the_scalar_instruction(contracted: int) -> None:
    rng = graphs.rng(contracted)
    x = rng.choice([0, 1, 128, 254, 255], (9, contracted)).astype(np.uint8)
    w = rng.choice([-128, -127, -64, 0, 3, 127], (11, contracted)).astype(np.int8)
    exact, change, saturating = multiply(x, w)
    cut = 0
    for i, row in enumerate(x.tolist()):
        for j, weights in enumerate(w.tolist()):
            total, pairs = scalar(row, weights)
            assert exact[i, j] == sum(a * b for a, b in zip(row, weights, strict=True))
            assert exact[i, j] + change[i, j] == total
            cut += pairs
    assert saturating == cut
    assert cut > 0 or contracted == 1  # one product never leaves 16 bits


def test_rows_are_split_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = graphs.rng(0)
    x, w = rng.integers(0, 256, (5, 30)).astype(np.uint8), rng.integers(-128, 128, (40, 30)).astype(np.int8)
    expected = multiply(x, w)
    monkeypatch.setattr(saturation, "_ELEMENTS", 100)
    for a, b in zip(multiply(x, w), expected, strict=True):
        assert np.array_equal(a, b)


def quantized(
    op: onnx.NodeProto, shape: list[Any], codes: np.ndarray[Any, Any], kind: Any = np.uint8
) -> onnx.ModelProto:
    """An op between QuantizeLinear and DequantizeLinear, the zero point 7."""
    constants = {"s": np.float32(1 / 16), "z": kind(7), "w": codes, "t": np.float32(0.25), "n": np.int8(0)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "t", "n"], ["f"]),
        op,
    ]
    return graphs.model(nodes, {"x": ("float32", shape)}, {"y": "float32"}, constants)


def codes_of(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.clip(np.rint(x * 16) + 7, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "padding", [{"pads": [1, 0, 2, 1]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}], ids=str
)
def test_emulation_computes_every_output_of_a_convolution(
    group: int, padding: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saturation, "_POSITIONS", 10_000)
    rng = graphs.rng(group)
    weight = rng.integers(-128, 128, (4, 6 // group, 3, 2)).astype(np.int8)
    conv = node("Conv", ["d", "f"], ["y"], name="conv", group=group, strides=[2, 1], **padding)
    if "pads" in padding:
        conv.attribute.append(onnx.helper.make_attribute("dilations", [1, 2]))
    proto = quantized(conv, [2, 6, 9, 8], weight)
    x = rng.uniform(-1, 16, (2, 6, 9, 8)).astype(np.float32)
    document = load(proto)
    loss = emulate(document, [{"x": x}], 1)["conv"]
    # By hand: onnxruntime's float convolution says which input each tap of each output reads.
    codes, dilation = codes_of(x), [1, 2] if "pads" in padding else [1, 1]
    places = np.arange(1, codes[0, 0].size + 1, dtype=np.float32).reshape(1, 1, 9, 8)
    pairs = cut = 0
    signal = noise = 0.0
    taps = []
    for i in range(3):
        for j in range(2):
            pick = np.zeros((1, 1, 3, 2), np.float32)
            pick[0, 0, i, j] = 1
            one = node("Conv", ["x", "k"], ["y"], strides=[2, 1], dilations=dilation, **padding)
            small = graphs.model([one], {"x": ("float32", [1, 1, 9, 8])}, {"y": "float32"}, {"k": pick})
            taps.append(outputs(small, {"x": places})["y"].astype(int).reshape(-1))
    channels = 6 // group
    for image in codes:
        padded = np.concatenate([np.full((6, 1), 7, np.uint8), image.reshape(6, -1)], 1)
        for place in range(len(taps[0])):
            for row in range(4):
                own = range(row // (4 // group) * channels, (row // (4 // group) + 1) * channels)
                read = [int(padded[c, t[place]]) for t in taps for c in own]
                by = [int(weight[row, c, i, j]) for i in range(3) for j in range(2) for c in range(channels)]
                total, lost = scalar(read, by)
                exact = sum(a * b for a, b in zip(read, by, strict=True))
                pairs, cut = pairs + -(-len(read) // 2), cut + lost
                signal += float(exact - 7 * sum(by)) ** 2
                noise += float(total - exact) ** 2
    assert cut > 0
    assert (loss.pairs, loss.saturating) == (pairs, cut)
    assert loss.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-6)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm transposed"])
def test_emulation_computes_every_output_of_a_product(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "_POSITIONS", 10_000)
    rng = graphs.rng(5)
    weight = rng.integers(-128, 128, (12, 5)).astype(np.int8)
    attributes = {"transB": 1} if op.endswith("transposed") else {}
    proto = quantized(
        node(op.split()[0], ["d", "f"], ["y"], **attributes),
        [6, 12],
        np.ascontiguousarray(weight.T) if attributes else weight,
    )
    x = rng.uniform(-1, 16, (6, 12)).astype(np.float32)
    loss = emulate(load(proto), [{"x": x}], 1)["y"]
    cuts = [scalar(row, column)[1] for row in codes_of(x).tolist() for column in weight.T.tolist()]
    assert loss.saturating == sum(cuts) > 0
    assert loss.pairs == 6 * 5 * 6


@pytest.mark.parametrize("op", ["MatMul", "Conv"])
def test_the_largest_sum_of_each_row_is_that_of_its_pairs(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "_POSITIONS_OF_PAIRS", 10_000)
    rng = graphs.rng(7)
    matrix = rng.integers(-128, 128, (5, 12)).astype(np.int8)
    matrix[0] //= 4  # no activations saturate this row
    weight = matrix.T if op == "MatMul" else matrix.reshape(5, 12, 1, 1)
    shape = [6, 12] if op == "MatMul" else [6, 12, 1, 1]
    proto = quantized(node(op, ["d", "f"], ["y"]), shape, np.ascontiguousarray(weight))
    x = rng.uniform(-1, 16, shape).astype(np.float32)
    (pairs,) = largest_pairs(load(proto), [{"x": x}], 1, ["y"]).values()
    for i, row in enumerate(matrix.tolist()):
        codes = codes_of(x).reshape(6, 12).tolist()
        sums = [c[k] * row[k] + c[k + 1] * row[k + 1] for c in codes for k in range(0, 12, 2)]
        assert pairs.observed[i] == (pytest.approx(max(max(sums) / 32767, min(sums) / -32768)) if i else 0)
        ends = [255 * (max(s * a, 0) + max(s * b, 0)) for s in (1, -1) for a, b in zip(row[::2], row[1::2], strict=True)]
        assert pairs.possible[i] == pytest.approx(max(ends) / 32767, rel=1e-4)


def test_dynamic_products_round_by_the_sample_s_own_range() -> None:
    weight = np.full((4, 2), 127, np.int8)
    constants = {"w": weight, "s": np.ones(2, np.float32), "z": np.zeros(2, np.int8)}
    product = node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")
    proto = graphs.model([product], {"x": ("float32", [1, 4])}, {"y": "float32"}, constants)
    proto.opset_import.add(domain="com.microsoft", version=1)
    loss = emulate(load(proto), [{"x": np.array([[1, 1, 1, 1]], np.float32)}], 1)["y"]
    # Codes are 255: 2 * 255 * 127 = 64770 becomes 32767 in each of the pairs.
    assert loss.saturating == loss.pairs == 4
    assert loss.sqnr_db == pytest.approx(-20 * np.log10(1 - 32767 / 64770), abs=1e-9)
    low = emulate(load(proto), [{"x": np.array([[-1, 1, -1, 1]], np.float32)}], 1)["y"]
    assert low.saturating == 0 and low.sqnr_db == np.inf


def test_depthwise_signed_and_float_kernels_lose_nothing() -> None:
    depthwise = node("Conv", ["d", "f"], ["y"], group=4)
    weight = np.full((4, 1, 2, 2), 127, np.int8)
    assert not kernels(load(quantized(depthwise, [1, 4, 5, 5], weight)))
    product = node("MatMul", ["d", "f"], ["y"])
    assert kernels(load(quantized(product, [6, 12], np.full((12, 5), 127, np.int8))))
    assert not kernels(load(quantized(product, [6, 12], np.full((12, 5), 127, np.int8), np.int8)))
    assert not kernels(load(graphs.matmul()))
