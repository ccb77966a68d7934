"""nf4, fp4, dynamic8, llm_int8 against bitsandbytes, 8- and 16-bit floats against torch; extra ``oracles``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant import QuantState, decode, encode, from_bitsandbytes, to_bitsandbytes
from onnxquant.formats import format_named
from onnxquant.formats.bitsandbytes.dynamic8 import signed_map
from onnxquant.formats.bitsandbytes.nf4_fp4 import unnest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    functional = pytest.importorskip("bitsandbytes.functional")


def weights(rows: int, cols: int, label: str) -> NDArray[np.float32]:
    generator = np.random.default_rng([rows, *label.encode()])
    normal = generator.standard_normal((rows, cols)).astype(np.float32)
    made = {
        "normal": normal,
        "float16 grid": normal.astype(np.float16).astype(np.float32),
        "heavy tails": generator.standard_t(2, (rows, cols)).astype(np.float32),
        "mostly zero": normal * (generator.random((rows, cols)) < 0.05),
        "every magnitude": normal * np.exp(generator.uniform(-40, 20, (rows, 1))),
        "zero blocks": normal * (np.arange(rows) % 3 > 0)[:, None],
    }
    return made[label].astype(np.float32)


LABELS = ["normal", "float16 grid", "heavy tails", "mostly zero", "every magnitude", "zero blocks"]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("block", [32, 64, 256])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_4_bit_bytes_are_bitsandbytes(name: str, block: int, label: str) -> None:
    weight = weights(1024, 1024, label)
    encoded = encode(weight, name, block_size=block)
    form: Any = encoded.format
    packed, state = functional.quantize_4bit(torch.from_numpy(weight), blocksize=block, quant_type=name)
    np.testing.assert_array_equal(form.absmax(encoded), state.absmax.numpy())
    theirs = form.from_blocks(packed.numpy(), *weight.shape, state.absmax.numpy())
    if name == "nf4":
        np.testing.assert_array_equal(form.to_blocks(encoded), packed.numpy().reshape(-1))
    # fp4 has two zeros, and which one is written depends on their device: compared by value.
    np.testing.assert_array_equal(decode(encoded), decode(theirs))
    # Their own decode of our bytes; rows of whole blocks, which their kernel reads right.
    state.absmax = torch.from_numpy(form.absmax(encoded).copy())
    ours = torch.from_numpy(form.to_blocks(encoded)).reshape(-1, 1)
    back = functional.dequantize_4bit(ours, state, quant_type=name).numpy()
    np.testing.assert_allclose(decode(encoded), back, rtol=1e-6)


@pytest.mark.parametrize("label", [x for x in LABELS if x != "every magnitude"])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_double_quantization_is_bitsandbytes_within_a_step(name: str, label: str) -> None:
    """Their float32 mean and their look-up of codes leave a step of the map open; scales stay as near."""
    weight = weights(512, 1024, label)
    encoded = encode(weight, name, double_quant=True)
    _, state = functional.quantize_4bit(torch.from_numpy(weight), quant_type=name, compress_statistics=True)
    np.testing.assert_allclose(encoded.planes["nested_offset"], [state.offset.item()], rtol=1e-5)
    np.testing.assert_allclose(encoded.planes["nested_scales"], state.state2.absmax.numpy(), rtol=1e-4)
    codes, theirs = encoded.planes["scales"].reshape(-1).astype(int), state.absmax.numpy().astype(int)
    assert (codes != theirs).mean() < 0.02
    assert np.abs(codes - theirs).max() <= 4
    planes = {"scales": state.absmax.numpy(), "nested_scales": state.state2.absmax.numpy(),
              "nested_offset": np.float32([state.offset.item()])}  # fmt: skip
    gap = np.diff(signed_map()).max() * encoded.planes["nested_scales"].max()
    assert np.abs(unnest(planes) - unnest(encoded.planes).reshape(-1)).max() <= gap


@pytest.mark.parametrize("label", LABELS)
def test_8_bit_blocks_are_bitsandbytes_but_for_its_look_up(label: str) -> None:
    weight = weights(512, 1024, label)
    encoded = encode(weight, "dynamic8")
    codes, state = functional.quantize_blockwise(torch.from_numpy(weight), blocksize=64)
    np.testing.assert_array_equal(signed_map(), state.code.numpy())
    np.testing.assert_array_equal(encoded.planes["scales"].reshape(-1), state.absmax.numpy())
    full = np.repeat(encoded.planes["scales"] > 0, 64, axis=1)  # of a zero block their CPU kernel writes code 0
    ours, theirs = encoded.planes["codes"][full].astype(int), codes.numpy().reshape(weight.shape)[full].astype(int)
    assert (ours != theirs)[weight[full] != 0].mean() < 0.02  # their look-up gives zero the code 131, not 127
    assert np.abs(ours - theirs).max() <= 4
    # Where they differ ours is the nearer one.
    form: Any = encoded.format
    scaled = np.repeat(encoded.planes["scales"].astype(np.float64), 64, axis=1)
    off = [np.abs(form.table()[c] * scaled[full] - weight[full]) for c in (ours, theirs)]
    assert (off[0] <= off[1] + 1e-6 * scaled[full]).all()


@pytest.mark.parametrize("label", ["normal", "mostly zero", "zero blocks"])
def test_llm_int8_is_bitsandbytes(label: str) -> None:
    weight = weights(512, 1024, label)
    encoded = encode(weight, "llm_int8", threshold=100.0)
    codes, scb, _ = functional.int8_vectorwise_quant(torch.from_numpy(weight.astype(np.float16)))
    form: Any = encoded.format
    np.testing.assert_array_equal(form.absmax(encoded), scb.numpy())
    live = scb.numpy() > 0  # their CPU code divides by zero
    # torch computes 127.0 / SCB as reciprocal times 127, so that ties may fall to the other side; nothing else may.
    ours, theirs = form.to_blocks(encoded)[live].astype(int), codes.numpy()[live].astype(int)
    exact = weight.astype(np.float16).astype(np.float64)[live] * 127 / scb.numpy().astype(np.float64)[live, None]
    tie = np.abs(exact - np.floor(exact) - 0.5) < 1e-4
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3
    back = functional.int8_vectorwise_dequant(codes, scb).numpy()
    read = decode(form.from_blocks(codes.numpy()[live], int(live.sum()), 1024, scb.numpy()[live]))
    np.testing.assert_allclose(read, back[live], rtol=2e-5)
    np.testing.assert_array_equal(read[~tie], decode(encoded)[live][~tie])


def _same_state(ours: Any, theirs: Any) -> None:
    np.testing.assert_array_equal(ours.absmax, theirs.absmax.numpy())
    assert ours.absmax.dtype == theirs.absmax.numpy().dtype
    np.testing.assert_array_equal(ours.code, theirs.code.numpy())
    assert (ours.blocksize, ours.quant_type, ours.nested) == (theirs.blocksize, theirs.quant_type, theirs.nested)
    assert ours.shape == (None if theirs.shape is None else tuple(theirs.shape))
    assert f"torch.{ours.dtype}" == str(theirs.dtype)
    if ours.nested:
        assert float(ours.offset) == theirs.offset.item()
        _same_state(ours.state2, theirs.state2)


ARRAYS = [(64, 128), (33, 77), (3, 5), (1000,), (16, 8, 3, 3), (5, 96), (64, 512), (1, 1)]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_a_float_array_becomes_their_4_bit_tensor_to_the_byte(name: str, nested: bool, label: str) -> None:
    torch.set_num_threads(1)
    for shape in ARRAYS:
        weight = weights(shape[0], int(np.prod(shape[1:])), label).reshape(shape)
        for block in (32, 4096):
            ours = to_bitsandbytes(weight, name, block_size=block, double_quant=nested)
            data, state = functional.quantize_4bit(
                torch.from_numpy(weight), blocksize=block, quant_type=name, compress_statistics=nested
            )
            np.testing.assert_array_equal(ours.data, data.numpy())
            _same_state(ours.state, state)
            # And back: their own tensors, and the entries of a checkpoint.
            for other in (state, state.as_dict(), state.as_dict(packed=True), ours.state):
                encoded = from_bitsandbytes(data, other)
                again = to_bitsandbytes(encoded)
                np.testing.assert_array_equal(again.data, data.numpy())
                _same_state(again.state, state)
            flat = torch.from_numpy(weight).reshape(1, -1)
            plain = functional.quantize_4bit(flat, blocksize=block, quant_type=name, compress_statistics=nested)[1]
            plain.shape = torch.Size([1, weight.size])
            from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

            absmax = plain.absmax
            if nested:
                absmax = functional.dequantize_blockwise(plain.absmax, plain.state2) + plain.offset
            back = _dequantize_4bit_compute(
                data.reshape(-1), absmax.float(), plain.code, block, plain.shape, torch.float32
            )
            np.testing.assert_array_equal(decode(encoded), back.numpy().reshape(shape))


@pytest.mark.parametrize("label", LABELS)
def test_a_float_array_becomes_their_8_bit_tensor_to_the_byte(label: str) -> None:
    for shape in ARRAYS:
        weight = weights(shape[0], int(np.prod(shape[1:])), label).reshape(shape)
        for block in (64, 4096):
            ours = to_bitsandbytes(weight, "dynamic8", block_size=block)
            data, state = functional.quantize_blockwise(torch.from_numpy(weight), blocksize=block)
            np.testing.assert_array_equal(ours.data, data.numpy())
            _same_state(ours.state, state)
            encoded = from_bitsandbytes(data, state)
            np.testing.assert_array_equal(to_bitsandbytes(encoded).data, data.numpy())
            np.testing.assert_array_equal(decode(encoded), functional.dequantize_blockwise(data, state).numpy())
    data, state = functional.quantize_blockwise(torch.from_numpy(weights(64, 640, label)), blocksize=64, nested=True)
    np.testing.assert_allclose(
        decode(from_bitsandbytes(data, state)), functional.dequantize_blockwise(data, state).numpy(), rtol=1e-6
    )


@pytest.mark.parametrize("threshold", [0.0, 2.5])
@pytest.mark.parametrize("label", [x for x in LABELS if x != "every magnitude"])
def test_a_float_matrix_becomes_their_int8_matrix_to_the_byte(label: str, threshold: float) -> None:
    for rows, cols in ((64, 300), (1, 300), (512, 1024)):
        weight = weights(rows, cols, label)
        half = torch.from_numpy(weight.astype(np.float16))
        codes, scb, columns = functional.int8_vectorwise_quant(half.clone(), threshold=threshold)
        ours = to_bitsandbytes(weight, "llm_int8", threshold=threshold)
        state: Any = ours.state
        np.testing.assert_array_equal(ours.data, codes.numpy())
        np.testing.assert_array_equal(state.scb, scb.numpy())
        assert (columns is None) == (state.outlier_columns is None)
        np.testing.assert_array_equal([] if columns is None else columns, [] if columns is None else state.outlier_columns)
        back = functional.int8_vectorwise_dequant(codes, scb).numpy()
        np.testing.assert_allclose(decode(from_bitsandbytes(codes, scb)), back, rtol=1e-6)
        again: Any = to_bitsandbytes(from_bitsandbytes(codes, state))
        np.testing.assert_array_equal(again.data, codes.numpy() if threshold == 0 or rows > 1 else again.data)
        np.testing.assert_array_equal(again.state.scb, scb.numpy())


def test_our_state_makes_theirs() -> None:
    weight = weights(64, 128, "normal")
    ours = to_bitsandbytes(encode(weight, "nf4", double_quant=True))
    assert isinstance(ours.state, QuantState)
    entries = {k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in ours.state.as_dict().items()}
    theirs = functional.QuantState.from_dict(entries, torch.device("cpu"))
    back = functional.dequantize_4bit(torch.from_numpy(ours.data), theirs).numpy()
    np.testing.assert_allclose(decode(from_bitsandbytes(ours.data, theirs)), back, rtol=1e-6)


@pytest.mark.parametrize(("name", "dtype"), [("f8_e4m3", "float8_e4m3fn"), ("f8_e5m2", "float8_e5m2")])
def test_8_bit_floats_are_torchs(name: str, dtype: str) -> None:
    weight = weights(256, 1024, "heavy tails")
    encoded = encode(weight, name)
    inverse = np.float32(1) / encoded.planes["scales"]
    theirs = torch.from_numpy(weight * inverse).to(getattr(torch, dtype)).view(torch.uint8).numpy()
    np.testing.assert_array_equal(encoded.planes["codes"], theirs)


def test_bfloat16_is_torchs() -> None:
    weight = weights(256, 1024, "every magnitude")
    theirs = torch.from_numpy(weight).to(torch.bfloat16).view(torch.int16).numpy()
    np.testing.assert_array_equal(encode(weight, "bf16").planes["values"].view(np.int16), theirs)
    assert format_named("bf16").bits_per_weight == 16
