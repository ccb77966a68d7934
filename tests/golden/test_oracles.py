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
from onnxquant.errors import RangeError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.packing import unpack
from onnxquant.targets.layouts import Columns, Rows

GGML = {"q4_0": GGMLQuantizationType.Q4_0, "q8_0": GGMLQuantizationType.Q8_0}
COLS = 1024
ROWS = 3136  # ten distributions of 32 * 3136 blocks: a little over 10^6 in all


def _blockwise(weight: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (weight.reshape(ROWS, -1, 32) * factors[..., None]).reshape(ROWS, COLS).astype(np.float32)


DISTRIBUTIONS = {
    "normal": lambda normal, generator: normal,
    "float16 grid": lambda normal, generator: normal.astype(np.float16).astype(np.float32),
    "bfloat16 grid": lambda normal, generator: (normal.view(np.uint32) & 0xFFFF0000).view(np.float32),
    "integers": lambda normal, generator: np.round(normal * 8),
    "halves": lambda normal, generator: np.round(normal * 4) / 2,
    "ties": lambda normal, generator: np.sign(np.round(normal)) * np.float32(0.7),
    "mostly zero": lambda normal, generator: normal * (generator.random(normal.shape) < 0.02),
    # The scale is a subnormal float16, or rounds to zero.
    "tiny": lambda normal, generator: _blockwise(normal, np.exp(generator.uniform(-30, -8, (ROWS, 32)))),
    "every magnitude": lambda normal, generator: _blockwise(normal, np.exp(generator.uniform(-16, 10, (ROWS, 32)))),
    # As large as a float16 scale allows: 5e5 for q4_0, 8e6 for q8_0.
    "large": lambda normal, generator: normal,
}
LARGE = {"q4_0": 7e4, "q8_0": 1e6}


@pytest.mark.parametrize("name", GGML)
@pytest.mark.parametrize("label", DISTRIBUTIONS)
def test_a_million_blocks_are_ggmls_bytes(label: str, name: str) -> None:
    generator = np.random.default_rng([len(name), *label.encode()])
    normal = generator.standard_normal((ROWS, COLS), np.float32)
    weight = DISTRIBUTIONS[label](normal, generator).astype(np.float32, copy=False)
    if label == "large":
        weight = weight * np.float32(LARGE[name])
    encoded = encode(weight, name)
    form: Any = encoded.format
    expected = gguf.quants.quantize(weight, GGML[name])
    got = form.to_blocks(encoded).reshape(expected.shape)
    assert np.array_equal(got, expected), f"{(got != expected).any(-1).sum()} rows differ"
    np.testing.assert_array_equal(decode(encoded), gguf.quants.dequantize(expected, GGML[name]))
    again = form.from_blocks(expected, ROWS, COLS)
    assert all(np.array_equal(again.planes[p], encoded.planes[p]) for p in encoded.planes)


@pytest.mark.parametrize(("name", "largest"), [("q4_0", 8 * 65504.0), ("q8_0", 127 * 65504.0)])
def test_scales_beyond_float16_are_refused_where_ggml_writes_infinity(name: str, largest: float) -> None:
    """ggml itself stores an infinite scale, and the block decodes to NaN."""
    for value, fits in ((largest, True), (largest * 1.001, False)):
        block = _block(value)[None]
        with np.errstate(over="ignore", invalid="ignore"):
            expected = gguf.quants.quantize(block, GGML[name])
            assert np.isfinite(gguf.quants.dequantize(expected, GGML[name])).all() == fits
        if fits:
            encoded = encode(block, name)
            form: Any = encoded.format
            assert form.to_blocks(encoded).tobytes() == expected.tobytes()
        else:
            with pytest.raises(RangeError, match="beyond float16"):
                encode(block, name)


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


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1, 1e-20, 3e30])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
def test_ternary_weights_are_kept_exactly(scale: float, zeros: float) -> None:
    generator = graphs.rng(3)
    trits = generator.choice([-1, 1], (8, 256)) * (generator.random((8, 256)) >= zeros)
    weight = (trits * np.float32(scale)).astype(np.float32)
    encoded = encode(weight, "i2_s")
    np.testing.assert_array_equal(decode(encoded), weight)
    np.testing.assert_array_equal(encoded.planes["codes"], trits + 2)
    form: Any = encoded.format
    np.testing.assert_array_equal(decode(form.from_blocks(form.to_blocks(encoded), 8, 256)), weight)


def test_i2_s_raw_tensor_is_checked() -> None:
    form: Any = format_named("i2_s")
    raw = form.to_blocks(encode(np.ones((2, 128), np.float32), "i2_s"))
    for place, shift in ((0, 0), (17, 2), (40, 4), (63, 6)):
        bad = raw.copy()
        bad[place] |= 3 << shift
        with pytest.raises(WeightError, match="code 3"):
            form.from_blocks(bad, 2, 128)
    # What BitNet's own quantizer leaves behind the scale is not initialised: it is ignored.
    noisy = raw.copy()
    noisy[-28:] = 0xAA
    np.testing.assert_array_equal(decode(form.from_blocks(noisy, 2, 128)), np.ones((2, 128), np.float32))
    for bad in (raw[:-1], np.append(raw, 0).astype(np.uint8)):
        with pytest.raises(WeightError, match="bytes, expected 96"):
            form.from_blocks(bad, 2, 128)
    with pytest.raises(WeightError, match="multiple of 128"):
        form.from_blocks(raw, 4, 64)


def test_i2_s_scale_is_absmean() -> None:
    weight = graphs.weight(64, 257)
    encoded = encode(weight, "i2_s")
    scale = np.abs(weight.astype(np.float64)).mean()
    assert encoded.planes["scales"].item() == pytest.approx(scale, rel=1e-6)
    expected = np.clip(np.rint(weight.astype(np.float64) / np.float32(scale)), -1, 1)
    assert (encoded.planes["codes"].astype(int) - 2 != expected).mean() < 1e-4


@pytest.mark.parametrize(
    ("bits", "symmetric", "scale", "zero_point", "expected"),
    [
        (4, True, 0.12109375, 8, "c3f5184b6d9fb2e4073a5c8fa1d3f629"),
        (4, False, 0.12708333134651184, 8, "c3f6184a6d9fb2e507395c8ea1d4f628"),
        (8, True, 0.007568359375, 128, "2dc657ef8011a93ad363fc8c1db646df6f009929c253eb7c0ca536ce5ff88819"),
        (2, True, 0.484375, 2, "dd72bbdc62b7dc2d"),
    ],
)
def test_onnxruntimes_bytes_of_one_block(
    bits: int, symmetric: bool, scale: float, zero_point: int, expected: str
) -> None:
    """Written down once, so that a change of onnxruntime's shows too. Its 8-bit grid is its own: ours uses +-127."""
    weight = _golden_block()
    packed, scales = np.zeros((1, 1, 4 * bits), np.uint8), np.zeros(1, np.float32)
    zero_points = np.zeros(1, np.uint8)
    quantizer = getattr(native_ort, f"quantize_matmul_{bits}bits")
    quantizer(packed, np.ascontiguousarray(weight[:, None]), scales, zero_points, 32, 1, 32, symmetric)
    assert (packed.tobytes().hex(), scales.item()) == (expected, scale)
    form = format_named(f"int{bits}", block_size=32, symmetric=symmetric)
    layout = Rows(form, 1, 32)
    codes = unpack(packed[0], bits, 32)
    assert layout.pack("codes", layout.encoded({"codes": codes})).tobytes().hex() == expected
    if bits < 8:
        ours = form.encode(weight[None])
        assert layout.pack("codes", ours).tobytes().hex() == expected
        assert ours.planes["scales"].item() == np.float16(scale)
        assert symmetric or ours.planes["zero_points"].item() == zero_point


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("extremes", [(-1.0, 1.0), (1.0, -1.0), (0.5, 0.5), (-0.5, -0.5), (0.0, 0.0), (1.0, -0.75)])
def test_ties_between_extremes_are_resolved_as_onnxruntime_does(bits: int, extremes: tuple[float, float]) -> None:
    """The negative extreme wins, wherever it is; ggml would take the first."""
    weight = _block(*extremes)
    packed, scales, unused = np.zeros((1, 1, 4 * bits), np.uint8), np.zeros(1, np.float32), np.zeros(1, np.uint8)
    quantizer = getattr(native_ort, f"quantize_matmul_{bits}bits")
    quantizer(packed, np.ascontiguousarray(weight[:, None]), scales, unused, 32, 1, 32, True)
    encoded = format_named(f"int{bits}").encode(weight[None])
    np.testing.assert_array_equal(encoded.planes["codes"], unpack(packed[0], bits, 32))
    assert encoded.planes["scales"].item() == np.float16(scales.item())


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


GRAINS: list[dict[str, Any]] = [
    {},
    {"block_size": 16},
    {"block_size": 128},
    {"per_channel": True},
    {"per_channel": False},
]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("parameters", GRAINS, ids=str)
@pytest.mark.parametrize("shape", [(16, 256), (7, 200), (1, 1), (3, 129)], ids=str)
def test_affine_codes_follow_the_formula_in_float64(
    bits: int, symmetric: bool, parameters: dict[str, Any], shape: tuple[int, int]
) -> None:
    """Round to nearest on a grid whose scale is computed in float32 and stored in float16; nothing of ours is used."""
    rows, cols = shape
    weight = graphs.weight(rows, cols)
    encoded = format_named(f"int{bits}", symmetric=symmetric, **parameters).encode(weight)
    block = parameters.get("block_size", cols if parameters else 32)
    low, high, top, offset = [], [], 2**bits - 1, 2 ** (bits - 1)
    for first in range(0, cols, block):
        part = weight[:, first : first + block].astype(np.float64)
        low.append(part.min(1))
        high.append(part.max(1))
    lowest, highest = np.stack(low, 1), np.stack(high, 1)
    if parameters.get("per_channel") is False:
        # One grid for the tensor; it holds zero.
        lowest, highest = lowest.min(keepdims=True), highest.max(keepdims=True)
        lowest, highest = np.minimum(lowest, 0), np.maximum(highest, 0)
    if symmetric:
        raw = np.maximum(-lowest, highest) / 127
        raw = raw if bits == 8 else np.where(-lowest >= highest, lowest, highest) / -offset
        scale = raw.astype(np.float32).astype(np.float16).astype(np.float64)
        zero = np.full_like(lowest, offset)
    else:
        lowest, highest = np.minimum(lowest, 0), np.maximum(highest, 0)
        span = (highest.astype(np.float32) - lowest.astype(np.float32)).astype(np.float64)
        scale = (span / top).astype(np.float32).astype(np.float16).astype(np.float64)
        zero = np.clip(np.rint(-lowest / scale), 0, top)
        np.testing.assert_array_equal(encoded.planes["zero_points"], zero)
    np.testing.assert_array_equal(encoded.planes["scales"].astype(np.float64), scale)
    wide = [np.repeat(v, block, 1)[:, :cols] if v.size > 1 or block < cols else v for v in (scale, zero)]
    exact = weight.astype(np.float64) / wide[0] + wide[1]
    codes = np.clip(np.rint(exact), 1 if symmetric and bits == 8 else 0, top)
    # The product with a float32 reciprocal may fall on the other side of a tie, and only there.
    near_tie = np.abs(exact - np.floor(exact) - 0.5) < 1e-4
    assert near_tie.mean() < 0.01
    np.testing.assert_array_equal(encoded.planes["codes"][~near_tie], codes[~near_tie])
    assert np.abs(encoded.planes["codes"].astype(int) - codes).max() <= 1
