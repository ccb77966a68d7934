"""Encoders and layouts against oracles that share no code with them: gguf, onnxruntime, ONNX's evaluator, float64."""

from __future__ import annotations

import hashlib
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
from onnxquant.formats import format_named, formats
from onnxquant.formats.bitsandbytes.dynamic8 import signed_map
from onnxquant.formats.ggml.blocks import Blocks
from onnxquant.graph.needs import View
from onnxquant.numerics.packing import unpack
from onnxquant.numerics.philox import philox, uniforms
from onnxquant.targets.layouts.columns import ColumnsLayout
from onnxquant.targets.layouts.rows import RowsLayout


def _blocks_of_gguf(kind: GGMLQuantizationType) -> dict[str, bool]:
    """Whether gguf encodes and decodes these blocks."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    arguments = {"quantize": np.zeros((1, weights), np.float32), "dequantize": np.zeros((1, size), np.uint8)}
    able = {}
    for name, argument in arguments.items():
        try:
            getattr(gguf.quants, name)(argument, kind)
            able[name] = True
        except NotImplementedError:
            able[name] = False
    return able


KINDS = {
    form.name: GGMLQuantizationType[form.name.upper()]
    for form in formats()
    if isinstance(form, Blocks) and form.name.upper() in GGMLQuantizationType.__members__
}
GGML = {name: kind for name, kind in KINDS.items() if _blocks_of_gguf(kind)["quantize"]}
DECODED_BY_GGML = {n: kind for n, kind in KINDS.items() if n not in GGML and _blocks_of_gguf(kind)["dequantize"]}
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
    "every magnitude": lambda normal, generator: _blockwise(normal, np.exp(generator.uniform(-16, 9, (ROWS, 32)))),
    # As large as a float16 scale allows: 5e5 for q4_0, 8e6 for q8_0; a minimum is a float16 itself.
    "large": lambda normal, generator: normal,
}


def _positive_zeros(blocks: NDArray[np.uint8], kind: Any) -> None:
    sides = blocks.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])[:, :4].view(np.uint16)
    sides[sides == 0x8000] = 0


LARGE = {"q4_0": 7e4, "q4_1": 1e4, "q5_0": 1.5e5, "q5_1": 1e4, "q8_0": 1e6, "tq1_0": 1e4, "tq2_0": 1e4}


@pytest.mark.parametrize("name", GGML)
@pytest.mark.parametrize("label", DISTRIBUTIONS)
def test_a_million_blocks_are_ggmls_bytes(label: str, name: str) -> None:
    generator = np.random.default_rng([len(name), *label.encode()])
    normal = generator.standard_normal((ROWS, COLS), np.float32)
    weight = DISTRIBUTIONS[label](normal, generator).astype(np.float32, copy=False)
    if label == "large":
        weight = weight * np.float32(LARGE.get(name, 1e6))
    encoded = encode(weight, name)
    form: Any = encoded.format
    expected = gguf.quants.quantize(weight, GGML[name])
    got = form.to_blocks(encoded).reshape(expected.shape)
    if name in ("q4_1", "q5_1"):
        # Which of zeros of both signs gguf takes as an extreme depends on the width of numpy's vectors.
        _positive_zeros(got, GGML[name])
        _positive_zeros(expected, GGML[name])
    assert np.array_equal(got, expected), f"{(got != expected).any(-1).sum()} rows differ"
    np.testing.assert_array_equal(decode(encoded), gguf.quants.dequantize(expected, GGML[name]))
    again = form.from_blocks(expected, ROWS, COLS)
    assert all(np.array_equal(again.planes[p], encoded.planes[p]) for p in encoded.planes)


@pytest.mark.parametrize("name", DECODED_BY_GGML)
@pytest.mark.parametrize("label", [d for d in DISTRIBUTIONS if d != "large"])
def test_blocks_that_gguf_cannot_encode_decode_as_it_decodes_them(label: str, name: str) -> None:
    generator = np.random.default_rng([len(name), *label.encode()])
    normal = generator.standard_normal((ROWS, COLS), np.float32)
    weight = DISTRIBUTIONS[label](normal, generator).astype(np.float32, copy=False)
    encoded = encode(weight, name)
    form: Any = encoded.format
    blocks = form.to_blocks(encoded)
    np.testing.assert_array_equal(
        decode(encoded), gguf.quants.dequantize(blocks.reshape(ROWS, -1), DECODED_BY_GGML[name])
    )
    again = form.from_blocks(blocks, ROWS, COLS)
    assert all(np.array_equal(again.planes[p], encoded.planes[p]) for p in encoded.planes)


# Where blocks hold float16; the others begin with one.
HALVES = {
    "q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "tq1_0": (52,), "tq2_0": (64,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q4_1": (0, 2), "q5_1": (0, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", [*DECODED_BY_GGML, *GGML])
def test_any_bytes_decode_as_ggml_decodes_them(name: str) -> None:
    """Blocks that no encoder of ours would write: random bytes, but for finite float16 scales and no code 3 of tq2_0."""
    form: Any = format_named(name)
    rows, cols = 2000, 512
    generator = np.random.default_rng(6)
    raw = generator.integers(0, 256, (rows, cols // form.block, form.block_bytes), np.uint8)
    halves = HALVES.get(name, (0,))
    for at in halves:
        raw[..., at + 1] &= 0xBF  # the highest bit of the exponent
    if name == "mxfp4":
        raw[..., 0] %= 253  # beyond, codes stand for infinity, or for NaN where ggml has numbers
    if name == "tq2_0":
        raw[..., :64] &= ~(raw[..., :64] << 1 & 0xAA)
    encoded = form.from_blocks(raw, rows, cols)
    expected = gguf.quants.dequantize(raw.reshape(rows, -1), KINDS[name])
    np.testing.assert_array_equal(decode(encoded), expected)
    np.testing.assert_array_equal(form.to_blocks(encoded), _canonical_tq1_0(raw) if name == "tq1_0" else raw)


def _canonical_tq1_0(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes that ggml writes for digits in base 3, where others stand for the same; the last four have four digits."""
    numbers = raw.astype(np.int64) * 243 // 256
    numbers[..., 48:52] -= numbers[..., 48:52] % 3
    canonical = np.ceil(numbers * 256 / 243).astype(np.uint8)
    canonical[..., 52:] = raw[..., 52:]
    return canonical


# Root mean squared errors of ggml's own encoders on N(0, 0.02^2).
K_REFERENCE = {"q2_k": 5.9e-3, "q3_k": 3.0e-3, "q4_k": 1.43e-3, "q5_k": 7.2e-4, "q6_k": 3.5e-4}


@pytest.mark.parametrize("name", K_REFERENCE)
def test_k_quants_err_no_more_than_ggmls_encoder(name: str) -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32) * np.float32(0.02)
    error = np.sqrt(np.mean((decode(encode(weight, name)) - weight.astype(np.float64)) ** 2))
    assert 0.9 < error / K_REFERENCE[name] <= 1.005


@pytest.mark.parametrize("name", K_REFERENCE)
@pytest.mark.parametrize("tail", [2.0, 5.0])
def test_codes_of_k_quants_are_the_nearest_of_their_grids(name: str, tail: float) -> None:
    """In float64, and with heavy tails: given the stored scales no other code is nearer."""
    weight = np.random.default_rng(2).standard_t(tail, (64, 1024)).astype(np.float32)
    encoded = encode(weight, name)
    planes = {k: v.astype(np.float64) for k, v in encoded.planes.items()}
    count = planes["subscales"].shape[1] // planes["scales"].shape[1]
    step = np.repeat(np.repeat(planes["scales"], count, 1) * planes["subscales"], 256 // count, 1)
    offset, shift = 2.0 ** (encoded.format.bits - 1), 0.0
    if "minima" in planes:
        offset, shift = 0.0, np.repeat(np.repeat(planes["minima"], count, 1) * planes["subminima"], 256 // count, 1)
    codes = np.arange(1 << encoded.format.bits)
    grid = (codes[:, None, None] - offset) * step - shift
    best = np.abs(grid - weight).min(axis=0)
    got = np.abs((planes["codes"] - offset) * step - shift - weight)
    np.testing.assert_allclose(got, best, rtol=1e-4, atol=1e-5 * np.abs(step).max())


def test_a_sub_block_without_steps_keeps_its_mean() -> None:
    weight = np.full((1, 256), -0.5, np.float32)
    weight[0, :32] = np.linspace(-100, 900, 32)
    weight[0, 64:96] += np.linspace(-0.4, 0.4, 32, dtype=np.float32)
    encoded = encode(weight, "q4_k")
    assert encoded.planes["subscales"][0, 2] == 0
    # -0.5 lies between the minima 0 and -1.6 of this super-block: the nearer, not the one that reaches -0.9.
    assert np.abs(decode(encoded)[0, 64:96] + 0.5).max() <= 100 / 63 / 2


IQ4_NL_VALUES = gguf.quants.IQ4_NL.kvalues


def _iq4_nl_block(block: NDArray[np.float32]) -> bytes:
    """ggml's quantize_row_iq4_nl_ref, one float32 operation after the other."""
    top = np.float32(0)
    for value in block:
        top = value if abs(value) > abs(top) else top
    inverse = np.float32(1) / (top / np.float32(IQ4_NL_VALUES[0]))
    codes, xq, qq = [], np.float32(0), np.float32(0)
    for value in block:
        scaled = inverse * value
        code = min(range(16), key=lambda i: (abs(np.float64(scaled) - IQ4_NL_VALUES[i]), -i))
        codes.append(code)
        level, weight = np.float32(IQ4_NL_VALUES[code]), value * value
        xq += weight * level * value
        qq += weight * level * level
    packed = [codes[i] | codes[i + 16] << 4 for i in range(16)]
    return np.float16(xq / qq).tobytes() + bytes(packed)


@pytest.mark.parametrize("label", [d for d in DISTRIBUTIONS if d not in ("mostly zero", "tiny")])
def test_iq4_nl_blocks_are_those_of_ggmls_reference_step_by_step(label: str) -> None:
    generator = np.random.default_rng([4, *label.encode()])
    normal = generator.standard_normal((ROWS, COLS), np.float32)
    weight = DISTRIBUTIONS[label](normal, generator).astype(np.float32)[:2, :320]
    encoded = encode(weight, "iq4_nl")
    form: Any = encoded.format
    expected = [_iq4_nl_block(block) for block in weight.reshape(-1, 32)]
    assert [block.tobytes() for block in form.to_blocks(encoded).reshape(-1, 18)] == expected


def test_blocks_of_iq4_nl_that_are_nearly_zero_have_no_scale() -> None:
    weight = np.full((2, 32), 9e-16, np.float32)
    weight[1] = 1.1e-15
    encoded = encode(weight, "iq4_nl")
    assert (encoded.planes["scales"] == 0).all()  # 1.1e-15 / 127 is no float16
    assert np.unique(encoded.planes["codes"][0]).tolist() == [8]
    assert np.unique(encoded.planes["codes"][1]).tolist() == [0]
    assert (decode(encoded) == 0).all()


def test_exponents_of_mxfp4_are_ggmls_close_to_every_power_of_two() -> None:
    exponents, below = np.meshgrid(np.arange(3, 253, dtype=np.uint32), np.arange(60, dtype=np.uint32), indexing="ij")
    weight = np.zeros((exponents.size, 32), np.float32)
    weight[:, 0] = ((exponents << 23) - below).view(np.float32).reshape(-1)
    encoded = encode(weight, "mxfp4")
    form: Any = encoded.format
    expected = gguf.quants.quantize(weight, GGML["mxfp4"])
    assert np.array_equal(form.to_blocks(encoded).reshape(expected.shape), expected)


@pytest.mark.parametrize(("value", "exponent"), [(1e-40, 0), (2.0**-126, 0), (np.finfo(np.float32).max, 252)])
def test_exponents_of_mxfp4_are_clipped_where_ggml_wraps_around_or_overflows(value: float, exponent: int) -> None:
    encoded = encode(np.full((1, 32), value, np.float32), "mxfp4")
    assert encoded.planes["scales"].view(np.uint8).tolist() == [[exponent]]
    assert np.isfinite(decode(encoded)).all()


def test_q8_k_blocks_hold_the_sums_of_their_codes() -> None:
    weight = graphs.weight(64, 1024)
    weight[3] = 0
    encoded = encode(weight, "q8_k")
    form: Any = encoded.format
    raw = form.to_blocks(encoded)
    codes = raw[..., 4:260].copy().view(np.int8).astype(np.int64)
    sums = raw[..., 260:].copy().view("<i2")
    np.testing.assert_array_equal(sums, codes.reshape(64, 4, 16, 16).sum(-1))
    assert not raw[3].any()
    # The rule in float64: the signed extreme maps to -127, ties of rounding aside.
    blocks = weight.reshape(64, 4, 256).astype(np.float64)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    exact = np.divide(-127 * blocks, extreme, out=np.zeros_like(blocks), where=extreme != 0)
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
    np.testing.assert_array_equal(codes[clear], np.rint(exact)[clear])


def _golden_super_block() -> NDArray[np.float32]:
    return ((((37 * np.arange(256) + 11) % 256) - 127) / 64).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q8_k", "be3b95fcdd4f140a37daf313126e47025e574661455fb01aeb52749042057eaa"),
        ("tq1_0", "94acea136446bc93618b373e97bf973c61a375ae8cd62ee24f79748e82e94237"),
        ("tq2_0", "be18f2201c2311e919bd47c61ffee12ff26dcda3a9526c8ef31f64c42fc6e188"),
    ],
)
def test_bytes_of_a_super_block(name: str, expected: str) -> None:
    encoded = encode(_golden_super_block()[None], name)
    form: Any = encoded.format
    raw = form.to_blocks(encoded).tobytes()
    assert hashlib.sha256(raw).hexdigest() == expected
    if name == "q8_k":
        assert raw[:16].hex() == "040281bc734e2a05e0bc97704b2702dd"
        assert raw[-16:].hex() == "eafee600e600e8ffeafee9ffe8ffe8ff"


def test_tq2_0_refuses_the_code_that_means_nothing() -> None:
    form: Any = format_named("tq2_0")
    raw = form.to_blocks(encode(_golden_super_block()[None], "tq2_0"))
    raw[0, 0, 40] |= 0x0C
    with pytest.raises(WeightError, match="code 3"):
        form.from_blocks(raw, 1, 256)


@pytest.mark.parametrize(
    ("name", "largest"),
    [("q4_0", 8 * 65504.0), ("q8_0", 127 * 65504.0), ("q5_0", 16 * 65504.0)],
)
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
        ("q4_1", _golden_block(), "1130c0bb730c952ec851ea731da63fc862fb841d"),
        ("q5_0", _golden_block(), "c02b5aad546ae6093b5e80a2d5f72a5c7fa2c4f7193c"),
        ("q5_1", _golden_block(), "df2bc0bb5aad546ae6083b5d80a2d5f72a4c7f91c4e6193b"),
        ("q5_0", _block(-1, 1), "002cfeffffff000f" + "00" * 14),
        ("q4_1", _block(-1, 1), "443000bc707f" + "77" * 14),
        ("q5_0", _block(), "0080ffffffff" + "00" * 16),
        ("q4_1", _block(), "00" * 20),
        ("q5_1", _block(), "00" * 24),
        ("q4_1", _block(rest=0.3), "0000cd34" + "00" * 16),
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
    layout = RowsLayout(form, View((1, 32), (0, 1), 1), 21)
    codes = unpack(packed[0], bits, 32)
    planes = {"codes": codes, "scales": scales[None], "zero_points": zero_points[None]}
    assert layout.pack(layout.encoded(planes))["codes"].tobytes().hex() == expected
    if bits < 8:
        ours = form.encode(weight[None])
        assert layout.pack(ours)["codes"].tobytes().hex() == expected
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
    layout = RowsLayout(form, View((n, k), (0, 1), 1), 21)
    encoded = layout.encoded(planes)
    assert np.array_equal(layout.pack(encoded)["codes"], packed)
    if not symmetric:
        assert np.array_equal(layout.pack(encoded)["zero_points"].reshape(-1), zero_points)
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
    layout = ColumnsLayout(form, View((n, k), (0, 1), 1), 21)
    tensors, packed = [], layout.pack(encoded)
    for plane, spec in layout.specs().items():
        raw = packed[plane]
        kind = onnx.TensorProto.FLOAT if plane == "scales" else spec.elem_type
        raw = raw.astype(np.float32) if plane == "scales" else raw
        tensors.append(onnx.TensorProto(name=plane, data_type=kind, dims=spec.shape, raw_data=raw.tobytes()))
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


@pytest.mark.parametrize("bits", [3, 5, 6])
@pytest.mark.parametrize("symmetric", [True, False])
def test_odd_widths_follow_the_formula_in_float64(bits: int, symmetric: bool) -> None:
    test_affine_codes_follow_the_formula_in_float64(bits, symmetric, {"block_size": 64}, (7, 200))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_float_zero_points_follow_the_formula_in_float64(bits: int) -> None:
    """Blocks that straddle zero, lie on one side, and lie far off."""
    top = 2**bits - 1
    weight = graphs.weight(48, 128) + np.repeat([0.0, 3.0, -200.0], 16)[:, None].astype(np.float32)
    weight[5] = 0.25
    encoded = format_named(f"int{bits}", symmetric=False, zero_point="float").encode(weight)
    blocks = weight.astype(np.float64).reshape(48, 4, 32)
    low, high = blocks.min(-1), blocks.max(-1)
    step = np.maximum((high.astype(np.float32) - low.astype(np.float32)) / top, np.maximum(-low, high) / 1024)
    scale = step.astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(encoded.planes["scales"], scale)
    wide = scale.astype(np.float64)
    zero = (-low / wide).astype(np.float32).astype(np.float16)
    np.testing.assert_array_equal(encoded.planes["zero_points"], zero)
    exact = blocks / wide[..., None] + zero.astype(np.float64)[..., None]
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
    codes = encoded.planes["codes"].reshape(blocks.shape)
    np.testing.assert_array_equal(codes[clear], np.clip(np.rint(exact), 0, top)[clear])
    # A grid that need not hold zero is never worse off than a step and a float16's rounding of the zero point.
    off = np.abs(form_values(encoded) - weight).reshape(blocks.shape)
    assert (off <= wide[..., None] * 1.02 + 1e-6).all()


def form_values(encoded: Any) -> NDArray[np.float64]:
    """(code - zero) * scale in float64."""
    planes = {k: v.astype(np.float64) for k, v in encoded.planes.items()}
    spread = {k: np.repeat(planes[k], 32, axis=1) for k in ("scales", "zero_points")}
    return (planes["codes"] - spread["zero_points"]) * spread["scales"]


@pytest.mark.parametrize(
    ("name", "mantissa", "bias", "largest"), [("f8_e4m3", 3, 7, 448.0), ("f8_e5m2", 2, 15, 57344.0)]
)
def test_8_bit_floats_are_the_nearest_ties_to_even(name: str, mantissa: int, bias: int, largest: float) -> None:
    """Values from the bit fields and an exhaustive search; no float8 library."""
    codes = np.arange(128)
    exponent, fraction = codes >> mantissa, (codes & ((1 << mantissa) - 1)) / (1 << mantissa)
    values = np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    values = values[values <= largest]
    assert values[-1] == largest
    generator = np.random.default_rng(8)
    weight = (generator.standard_normal((24, 300)) * np.exp(generator.uniform(-9, 0, (24, 300)))).astype(np.float32)
    weight[0, :64] = np.float32(largest) * np.float32(2**-6) * np.arange(64, dtype=np.float32)  # ties among them
    weight[0, 64] = largest
    weight[0, 65:] = 0
    weight[1] = 0
    weight[2, ::2] = -0.0
    encoded = encode(weight, name)
    scale = (np.abs(weight).max(axis=1, keepdims=True) / np.float32(largest)).astype(np.float32)
    np.testing.assert_array_equal(encoded.planes["scales"], scale)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = np.minimum(np.abs((weight * inverse).astype(np.float64)), largest)
    distance = np.abs(scaled[..., None] - values)
    nearest = distance.min(-1)
    # Of two as near, the even code.
    expected = np.where(distance == nearest[..., None], np.arange(len(values)) % 2, 2).argmin(-1)
    got = encoded.planes["codes"]
    np.testing.assert_array_equal(got & 0x7F, expected)
    np.testing.assert_array_equal((got >> 7).astype(bool)[expected > 0], (weight < 0)[expected > 0])
    assert not got[1].any()
    signs = np.where(got >> 7, -1.0, 1.0)
    np.testing.assert_allclose(decode(encoded), signs * values[expected] * scale, rtol=1e-6)


def test_bfloat16_is_the_upper_half_rounded_to_even() -> None:
    weight = np.concatenate([graphs.weight(16, 4096), np.exp(graphs.weight(16, 4096) * 40)])
    weight[0, :512] = (np.arange(512, dtype=np.uint32) << 15 | 0x3F800000).view(np.float32)  # every other one is a tie
    bits = weight.view(np.uint32).astype(np.uint64)
    expected = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    np.testing.assert_array_equal(encode(weight, "bf16").planes["values"].view(np.uint16), expected)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_is_random123s(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = philox([np.array([c], np.uint64) for c in counter], key)
    assert tuple(int(w[0]) for w in words) == expected


def test_uniforms_go_by_the_place_of_the_element() -> None:
    seed = 0x123456789ABCDEF0
    for start in (0, 1, 6, (1 << 34) - 3, (1 << 35) + 2):
        got = uniforms(seed, start, 11)
        for i, value in enumerate(got):
            at = start + i
            counter = [np.array([c], np.uint64) for c in ((at // 4) & 0xFFFFFFFF, (at // 4) >> 32, 0, 0)]
            word = int(philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[at % 4][0])
            assert value == (word >> 8) / 2**24


@pytest.mark.parametrize("name", ["nf4", "fp4", "dynamic8"])
def test_stochastic_codes_are_the_neighbour_that_the_uniform_says(name: str) -> None:
    form: Any = format_named(name, stochastic=99)
    weight = graphs.weight(9, 192)
    table = form.table()
    levels = np.unique(table)
    scale = np.abs(weight.reshape(9, 3, 64)).max(-1).repeat(64, 1)
    value = np.clip(weight.astype(np.float64) / scale, levels[0], levels[-1])
    below = np.clip(np.searchsorted(levels, value, "right") - 1, 0, len(levels) - 2)
    share = (value - levels[below]) / (levels[below + 1].astype(np.float64) - levels[below])
    uniform = uniforms(99, 0, weight.size).reshape(weight.shape)
    clear = np.abs(share - uniform) > 1e-4
    expected = levels[below + (uniform < share)]
    np.testing.assert_array_equal(table[encode(weight, form).planes["codes"]][clear], expected[clear])


def test_the_signed_dynamic_map_is_bitsandbytes() -> None:
    expected = "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c"
    assert hashlib.sha256(signed_map().tobytes()).hexdigest() == expected
    assert (signed_map()[127], signed_map()[255]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nf4", "1d4f70b2e5f81c3e6091d3e70a2d4f814a5c7394b6c83a5b6284a5c7394b6c73"),
        ("fp4", "a5c30b4d2f36a5d2eb6a5c39b7d2f31ac7e50d6f4e51c7f49d6c7e59d6f4e51c"),
    ],
)
def test_bytes_of_a_block_of_bitsandbytes(name: str, expected: str) -> None:
    encoded = encode(np.concatenate([_golden_block(), _golden_block() / 2])[None], name)
    form: Any = encoded.format
    assert form.to_blocks(encoded).tobytes().hex() == expected
    assert form.absmax(encoded).tolist() == [0.96875]
    zeros = encode(np.zeros((1, 64), np.float32), name)
    assert form.to_blocks(zeros).tobytes() == (b"\x77" if name == "nf4" else b"\x00") * 32


@pytest.mark.parametrize("name", ["nf4", "fp4", "dynamic8"])
def test_table_codes_are_the_nearest_in_float64(name: str) -> None:
    form: Any = format_named(name)
    weight = graphs.weight(64, 512)
    encoded = encode(weight, name)
    scale = np.abs(weight.reshape(64, 8, 64)).max(-1)
    np.testing.assert_array_equal(encoded.planes["scales"], scale)
    wide = np.repeat(scale.astype(np.float64), 64, 1)
    best = np.abs(form.table().astype(np.float64)[:, None, None] * wide - weight).min(0)
    got = np.abs(decode(encoded) - weight.astype(np.float64))
    np.testing.assert_allclose(got, best, atol=2e-7 * wide.max())


def test_llm_int8_keeps_columns_of_outliers() -> None:
    weight = graphs.weight(40, 96)
    weight[7, 3], weight[0, 50] = 6.0, -9.5
    encoded = encode(weight, "llm_int8")
    assert encoded.planes["outlier_columns"].tolist() == [3, 50]
    assert encoded.format.settings() == {"outliers": 2}
    halves = weight.astype(np.float16).astype(np.float64)
    decoded = decode(encoded)
    np.testing.assert_array_equal(decoded[:, [3, 50]], halves[:, [3, 50]])
    rest = np.delete(np.arange(96), [3, 50])
    scb = np.abs(halves[:, rest]).max(1, keepdims=True)
    exact = halves[:, rest] * 127 / scb
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
    codes = encoded.planes["codes"].astype(int) - 128
    np.testing.assert_array_equal(codes[:, rest][clear], np.rint(exact)[clear])
    assert not codes[:, [3, 50]].any()
    np.testing.assert_allclose(encoded.planes["scales"], scb / 127, rtol=1e-6)
    # Just below the threshold nothing is kept; the share of a quantile is exact, ties go to the first.
    weight[7, 3], weight[0, 50] = 5.996, 0
    assert encode(weight, "llm_int8").planes["outlier_columns"].size == 0
    ties = np.ones((2, 100), np.float32)
    assert encode(ties, "llm_int8", quantile=0.99).planes["outlier_columns"].tolist() == [0]
    assert encode(ties, "llm_int8", quantile=0.985).planes["outlier_columns"].tolist() == [0, 1]
    assert encode(ties, "llm_int8", quantile=0.9999).planes["outlier_columns"].tolist() == [0]
    with pytest.raises(RangeError, match="column 4 is beyond float16"):
        encode(np.where(np.arange(8) == 4, 7e4, 1.0)[None], "llm_int8")


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_double_quantized_scales_are_near(name: str) -> None:
    weight = graphs.weight(70, 640)
    plain, nested = encode(weight, name), encode(weight, name, double_quant=True)
    np.testing.assert_array_equal(plain.planes["codes"], nested.planes["codes"])
    scales = plain.planes["scales"].astype(np.float64)
    offset = nested.planes["nested_offset"]
    assert offset == pytest.approx(scales.mean(), rel=1e-7)
    # 8-bit codes with a float32 for 256: off by half of the map's widest gap at most.
    blocks = np.pad((scales - offset).reshape(-1), (0, -scales.size % 256)).reshape(-1, 256)
    np.testing.assert_allclose(nested.planes["nested_scales"], np.abs(blocks).max(1), rtol=1e-6)
    form: Any = nested.format
    off = np.pad(np.abs(form.absmax(nested) - scales.reshape(-1)), (0, -scales.size % 256)).reshape(-1, 256)
    gap = np.diff(signed_map()).max()
    assert (off <= (gap / 2 + 0.0001) * nested.planes["nested_scales"][:, None]).all()


@pytest.mark.parametrize("shape", [(3, 0), (0, 64)])
def test_a_weight_without_elements_has_no_blocks(shape: tuple[int, int]) -> None:
    form: Any = format_named("q4_1")
    encoded = form.from_blocks(np.empty(0, np.uint8), *shape)
    assert form.to_blocks(encoded).shape == (shape[0], shape[1] // 32, 20)
