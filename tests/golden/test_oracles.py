"""Encoders and layouts against oracles that share no code with them: gguf, onnxruntime, ONNX's evaluator, float64."""

from __future__ import annotations

from typing import Any

import gguf.quants
import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import _pybind_state as native_ort

from onnxquant import decode, encode
from onnxquant.errors import WeightError
from onnxquant.formats import format_named
from onnxquant.formats.packing import unpack
from onnxquant.targets.layouts import Columns, Rows

GGML = {"q4_0": GGMLQuantizationType.Q4_0, "q8_0": GGMLQuantizationType.Q8_0}
COLS = 1024
ROWS = 5248  # six distributions of 32 * 5248 blocks: a little over 10^6 in all


def _distributions(seed: int) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((ROWS, COLS)).astype(np.float32)
    return {
        "normal": normal,
        "float16 grid": normal.astype(np.float16).astype(np.float32),
        "bfloat16 grid": (normal.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "integers": np.round(normal * 8),
        "small": normal * np.float32(1e-4),
        "large": normal * np.float32(1e4),
    }


@pytest.mark.parametrize("name", GGML)
def test_a_million_blocks_are_ggmls_bytes(name: str) -> None:
    for label, weight in _distributions(seed=len(name)).items():
        encoded = encode(weight, name)
        form: Any = encoded.format
        expected = gguf.quants.quantize(weight, GGML[name])
        got = form.to_blocks(encoded).reshape(expected.shape)
        assert np.array_equal(got, expected), f"{label}: {(got != expected).any(-1).sum()} rows differ"
    np.testing.assert_array_equal(decode(encoded), gguf.quants.dequantize(expected, GGML[name]))


def _golden_block() -> NDArray[np.float32]:
    return ((((37 * np.arange(32) + 11) % 64) - 31) / 32).astype(np.float32)


def _block(*values: float, rest: float = 0.0) -> NDArray[np.float32]:
    out = np.full(32, rest, np.float32)
    out[: len(values)] = values
    return out


@pytest.mark.parametrize(
    ("name", "block", "expected"),
    [
        ("q8_0", _golden_block(), "d01fae46d76f009129ba52e37b0c9e35c75ef08119aa42d36bfc8d25b64edf77089a"),
        ("q4_0", _golden_block(), "c02f730ca53fc851fb841da63fd962fb942e"),
        ("q4_0", _block(-1, 1), "0030808f" + "88" * 14),
        ("q8_0", _block(-1, 1), "0820817f" + "00" * 30),
        ("q4_0", _block(), "0080" + "88" * 16),
        ("q8_0", _block(), "0000" + "00" * 32),
        ("q4_0", _block(rest=0.3), "cda8" + "00" * 16),
        ("q8_0", _block(rest=0.3), "d618" + "7f" * 32),
        ("q4_0", _block(rest=-0.3), "cd28" + "00" * 16),
        ("q8_0", _block(rest=-0.3), "d618" + "81" * 32),
    ],
)
def test_corner_blocks(name: str, block: NDArray[np.float32], expected: str) -> None:
    encoded = encode(block[None], name)
    form: Any = encoded.format
    assert form.to_blocks(encoded).tobytes().hex() == expected


def test_i2_s_raw_tensor_is_bitnets() -> None:
    weight = ((((7 * np.arange(128) + 3) % 3) - 1) * 0.5).astype(np.float32)[None]
    encoded = encode(weight, "i2_s")
    form: Any = encoded.format
    raw = form.to_blocks(encoded)
    assert raw.tobytes().hex() == "244992" * 10 + "2449" + "0000003f" + "00" * 28
    assert np.array_equal(decode(form.from_blocks(raw, 1, 128)), weight)
    bad = raw.copy()
    bad[5] |= 0b11
    with pytest.raises(WeightError, match="code 3"):
        form.from_blocks(bad, 1, 128)
    with pytest.raises(WeightError, match="multiple of 128"):
        form.to_blocks(encode(weight[:, :100], "i2_s"))


def test_i2_s_scale_is_absmean() -> None:
    weight = graphs.weight(64, 257)
    encoded = encode(weight, "i2_s")
    scale = np.abs(weight.astype(np.float64)).mean()
    assert encoded.planes["scales"].item() == pytest.approx(scale, rel=1e-6)
    expected = np.clip(np.rint(weight.astype(np.float64) / np.float32(scale)), -1, 1)
    assert (encoded.planes["codes"].astype(int) - 2 != expected).mean() < 1e-4


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_packed_as_onnxruntime_packs(bits: int, symmetric: bool) -> None:
    """onnxruntime's own quantizer makes codes; our packer must make its bytes of them, zero points included."""
    k, n, block = 128, 24, 32
    blocks = k // block
    weight = graphs.weight(k, n)
    packed = np.zeros((n, blocks, block * bits // 8), np.uint8)
    scales = np.zeros(n * blocks, np.float32)
    zero_points = np.zeros(n * ((blocks * bits + 7) // 8), np.uint8)
    quantizer = getattr(native_ort, f"quantize_matmul_{bits}bits")
    quantizer(packed, weight, scales, zero_points, block, n, k, symmetric)
    form = format_named(f"int{bits}", block_size=block, symmetric=symmetric)
    codes = unpack(packed, bits, block).reshape(n, k)
    planes: dict[str, NDArray[Any]] = {"codes": codes, "scales": scales.reshape(n, blocks).astype(np.float16)}
    if not symmetric:
        planes["zero_points"] = unpack(zero_points.reshape(n, -1), bits, blocks)
    layout = Rows(form, n, k)
    encoded = layout.encoded(planes)
    assert np.array_equal(layout.pack("codes", encoded), packed)
    if not symmetric:
        assert np.array_equal(layout.pack("zero_points", encoded).reshape(-1), zero_points)
    # Our own codes agree with theirs wherever rounding the scale to float16 does not move a value over a boundary.
    ours = form.encode(np.ascontiguousarray(weight.T))
    differing = np.abs(ours.planes["codes"].astype(int) - codes.astype(int))
    if bits != 8 or not symmetric:  # 8-bit symmetric: their extreme maps to -128, ours to +-127
        assert differing.max() <= (2 if bits == 8 else 1)  # their zero point comes from the unrounded scale
        assert (differing != 0).mean() < (0.1 if bits == 8 else 0.02)
    # MatMulNBits on the identity gives the weight back: exactly our decode.
    inputs = {"b": packed, "s": planes["scales"].astype(np.float32)} | ({} if symmetric else {"z": zero_points})
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 1}
    node = onnx.helper.make_node("MatMulNBits", ["x", *inputs], ["y"], domain="com.microsoft", **attributes)
    proto = graphs.model([node], {"x": ("float32", [k, k])}, {"y": "float32"}, inputs)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    (got,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": np.eye(k, dtype=np.float32)})
    np.testing.assert_allclose(got.T, form.decode(encoded), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("parameters", [{"block_size": 16}, {"per_channel": True}, {"per_channel": False}], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_columns_decode_by_the_specification(bits: int, parameters: dict[str, Any], symmetric: bool) -> None:
    """ONNX's reference evaluator reads our planes as DequantizeLinear defines them."""
    k, n = 40, 12
    form = format_named(f"int{bits}", symmetric=symmetric, **parameters)
    encoded = form.encode(graphs.weight(n, k))
    layout = Columns(form, n, k)
    tensors = []
    for plane, stored in layout.stored().items():
        raw = layout.pack(plane, encoded)
        kind = onnx.TensorProto.FLOAT if plane == "scales" else stored.elem_type
        raw = raw.astype(np.float32) if plane == "scales" else raw
        tensors.append(onnx.TensorProto(name=plane, data_type=kind, dims=stored.shape, raw_data=raw.tobytes()))
    inputs = ["codes", "scales"] + ([] if symmetric else ["zero_points"])
    attributes = {"axis": 0, "block_size": 16} if "block_size" in parameters else {"axis": 1}
    node = onnx.helper.make_node("DequantizeLinear", inputs, ["y"], **attributes)
    graph = onnx.helper.make_graph(
        [node], "decode", [], [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [k, n])], tensors
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)], ir_version=13)
    (decoded,) = ReferenceEvaluator(proto).run(None, {})
    np.testing.assert_allclose(decoded[:, :n].T, form.decode(encoded), rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_affine_codes_follow_the_formula_in_float64(bits: int, symmetric: bool) -> None:
    weight = graphs.weight(16, 96)
    encoded = format_named(f"int{bits}", symmetric=symmetric).encode(weight)
    groups = weight.astype(np.float64).reshape(16, 3, 32)
    low, high, top, offset = groups.min(-1), groups.max(-1), 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        raw = np.maximum(-low, high) / 127 if bits == 8 else np.where(-low >= high, low, high) / -offset
        zero = np.full_like(low, offset)
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        raw = (high - low) / top
        zero = np.clip(np.rint(-low / raw.astype(np.float16).astype(np.float64)), 0, top)
    scale = raw.astype(np.float16)
    np.testing.assert_allclose(encoded.planes["scales"].astype(float), scale.astype(float), rtol=1e-3)
    exact = groups / encoded.planes["scales"].astype(np.float64)[..., None] + zero[..., None]
    codes = np.clip(np.rint(exact), 1 if symmetric and bits == 8 else 0, top).reshape(16, 96)
    near_tie = np.abs(exact - np.floor(exact) - 0.5).reshape(16, 96) < 1e-4
    assert (codes == encoded.planes["codes"])[~near_tie].all()
