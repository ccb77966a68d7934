"""nf4, fp4, dynamic8, llm_int8 against bitsandbytes, 8- and 16-bit floats against torch; extra ``oracles``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant import decode, encode
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
