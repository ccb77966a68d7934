"""Encoded tensors by themselves: files, statistics, scales, shapes; the formats of floats; codes of trits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every import every
from numpy.typing import NDArray
from variants import CASES

from onnxquant import Encoded, OnnxQuantError, WeightError, decode, decode_trit, encode, encode_trit, snr
from onnxquant.formats import format_named


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@every(("name", "parameters"), CASES, by="name")
def test_a_saved_tensor_comes_back_bit_for_bit(
    name: str, parameters: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "tensor.safetensors"
    encoded = encode(normal(5, 4, 64), name, **parameters)
    encoded.save(path)
    loaded = Encoded.load(path)
    assert (loaded.format, loaded.rows, loaded.cols, loaded.shape) == (encoded.format, 5, 256, (5, 4, 64))
    assert loaded.planes.keys() == encoded.planes.keys()
    for plane, values in encoded.planes.items():
        assert loaded.planes[plane].dtype == values.dtype
        assert loaded.planes[plane].tobytes() == values.tobytes()
    assert encoded.nbytes() <= path.stat().st_size < encoded.nbytes() + 1200


def test_a_saved_tensor_is_a_safetensors_file_with_packed_codes(tmp_path: Path) -> None:
    encoded = encode(normal(4, 96), "int3", symmetric=False, block_size=np.int64(32))
    encoded.save(tmp_path / "w.safetensors")
    raw = (tmp_path / "w.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    assert header.pop("__metadata__")["format"] == "int3"
    spans = [entry["data_offsets"] for entry in header.values()]
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == len(data)
    bits = "".join(f"{byte:08b}"[::-1] for byte in data[slice(*header["codes"]["data_offsets"])])
    low, high = bits[: 2 * 4 * 96], bits[2 * 4 * 96 :]
    codes = [int(high[i] + low[2 * i : 2 * i + 2][::-1], 2) for i in range(4 * 96)]
    assert codes == encoded.planes["codes"].reshape(-1).tolist()
    scales = np.frombuffer(data[slice(*header["scales"]["data_offsets"])], "<f2").reshape(header["scales"]["shape"])
    np.testing.assert_array_equal(scales, encoded.planes["scales"])


def test_every_damage_of_a_saved_tensor_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    encode(normal(2, 32), "q4_1").save(path)
    raw = path.read_bytes()
    damaged = [raw[:n] for n in [*range(24), *range(24, len(raw), 7), len(raw) - 1]] + [raw + b"\0", b"x" * 3000]
    damaged += [raw[:i] + bytes([raw[i] ^ 1 << i % 8]) + raw[i + 1 :] for i in range(0, len(raw), 3)]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(WeightError, match=r"w\.safetensors: "):
            Encoded.load(path)


def _forged(path: Path, **metadata: object) -> None:
    """A file with other metadata, and the checksum to them."""
    encode(normal(2, 32), "q4_1").save(path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + raw[8 + length : -32]
    path.write_bytes(data + hashlib.sha256(data).digest())


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"onnxquant_tensor": "2"}, "version 2 of the file format, expected 1"),
        ({"format": "q9_9"}, "unknown format 'q9_9'"),
        ({"format": ["q4_1"]}, "metadata"),
        ({"format": "q" * 9999}, r"unknown format 'q{10,200}\.\.\."),
        ({"format": "q5_1"}, "planes are not those of format q5_1"),
        ({"parameters": '{"block_size": 64}'}, "one fixed point"),
        ({"parameters": "[]"}, "metadata"),
        ({"matrix": "[2, 64]"}, r"a matrix of \[2, 64\] holds no array of \[2, 32\]"),
        ({"matrix": "[2147483647, 2147483647]", "shape": "[2147483647, 2147483647]"}, "planes are not those"),
        ({"matrix": "[-2, -32]"}, "metadata"),
        ({"shape": "[64"}, "metadata"),
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused(metadata: dict[str, object], says: str, tmp_path: Path) -> None:
    _forged(tmp_path / "w", **metadata)
    with pytest.raises(WeightError, match=says):
        Encoded.load(tmp_path / "w")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(WeightError, match="cannot be read"):
            Encoded.load(path)


def test_statistics_are_those_of_float64() -> None:
    w = normal(64, 3, 32)
    encoded = encode(w, "q4_0")
    statistics = encoded.statistics(w)
    error = decode(encoded).astype(np.float64) - w
    assert statistics.mse == pytest.approx(np.mean(error**2))
    assert statistics.rmse == pytest.approx(np.sqrt(np.mean(error**2)))
    assert statistics.max_error == np.abs(error).max()
    assert statistics.mean_error == pytest.approx(error.mean())
    assert statistics.mean_absolute_error == pytest.approx(np.abs(error).mean())
    assert statistics.sqnr_db == pytest.approx(10 * np.log10((w.astype(np.float64) ** 2).sum() / (error**2).sum()))
    assert statistics.sqnr_db == snr(w, decode(encoded))
    assert statistics.ratio == pytest.approx(32 / 4.5)
    assert statistics.nbytes == 64 * 3 * 18
    with pytest.raises(WeightError, match=r"array of shape \[192, 32\], expected \[64, 3, 32\]"):
        encoded.statistics(w.reshape(192, 32))


def test_snr_is_in_decibels_and_wants_one_shape() -> None:
    assert snr(np.float32([10, 0]), np.float32([9, 0])) == pytest.approx(20.0)
    assert snr(np.ones(3, np.float32), np.ones(3, np.float32)) == np.inf
    with pytest.raises(WeightError, match=r"\[2\] instead of \[3\]"):
        snr(np.ones(3, np.float32), np.ones(2, np.float32))


@every(("name", "parameters"), [c for c in CASES if "permuted" not in c.values[1]], by="name")
def test_scales_zero_points_and_minima_give_the_values(name: str, parameters: dict[str, Any]) -> None:
    encoded = encode(normal(6, 256), name, **parameters)
    if encoded.scales is None:
        assert encoded.format.bits >= 16
        return
    codes = encoded.planes["codes"].astype(np.float32)

    def spread(side: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(side.astype(np.float32), 256 // side.shape[1], axis=1)

    if encoded.zero_points is not None:
        assert encoded.zero_points.shape == encoded.scales.shape
        values = (codes - spread(encoded.zero_points)) * spread(encoded.scales)
        if "outliers" in encoded.planes:
            values[:, encoded.planes["outlier_columns"]] = encoded.planes["outliers"]
    elif encoded.minima is not None:
        values = codes * spread(encoded.scales) + spread(encoded.minima)
    else:
        form: Any = encoded.format
        values = form.table()[encoded.planes["codes"]] * spread(encoded.scales)
    np.testing.assert_allclose(values, decode(encoded), rtol=1e-6, atol=1e-6)


def test_a_kernel_is_encoded_along_all_inputs_of_a_channel() -> None:
    kernel = normal(64, 64, 3, 3)
    for name in ("int4", "q4_0", "nf4", "llm_int8"):
        encoded = encode(kernel, name)
        flat = encode(kernel.reshape(64, 576), name)
        assert (encoded.rows, encoded.cols, encoded.shape) == (64, 576, (64, 64, 3, 3))
        np.testing.assert_array_equal(encoded.planes["codes"], flat.planes["codes"])
        np.testing.assert_array_equal(decode(encoded), decode(flat).reshape(kernel.shape))
    per_channel = encode(kernel, "int8", per_channel=True)
    largest = np.abs(kernel).max(axis=(1, 2, 3)) / 127
    assert per_channel.scales is not None
    np.testing.assert_allclose(per_channel.scales[:, 0], largest, rtol=1e-3)


def test_a_stack_of_matrices_says_how_many_axes_are_contracted() -> None:
    stack = normal(3, 8, 64)
    encoded = encode(stack, "int8", per_channel=True, contracted=1)
    assert (encoded.rows, encoded.cols) == (24, 64)
    flat = decode(encode(stack.reshape(24, 64), "int8", per_channel=True))
    np.testing.assert_array_equal(decode(encoded), flat.reshape(3, 8, 64))
    for contracted in (0, 4):
        with pytest.raises(OnnxQuantError, match=f"contracted is {contracted}, expected 1 to 3 axes"):
            encode(stack, "int8", contracted=contracted)
    assert encode(normal(64), "int8").rows == 1


def test_f32_changes_nothing() -> None:
    w = normal(3, 5, 7)
    encoded = encode(w, "f32")
    assert decode(encoded).tobytes() == w.tobytes()
    statistics = encoded.statistics(w)
    assert (statistics.mse, statistics.sqnr_db, statistics.ratio) == (0.0, np.inf, 1.0)
    assert format_named("f32").bits_per_weight == 32


def test_trits_have_bitnets_codes_and_nothing_else_has() -> None:
    trits = np.random.default_rng(1).integers(-1, 2, (3, 128))
    codes = encode_trit(trits)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, trits + 1)
    assert decode_trit(codes).dtype == np.int8
    np.testing.assert_array_equal(decode_trit(codes), trits)
    form: Any = format_named("i2_s")
    packed = form.to_blocks(form.encode(trits.astype(np.float32)))
    weights = [packed[32 * (i // 128) + i % 32] >> (6 - 2 * (i % 128 // 32)) & 3 for i in range(3 * 128)]
    assert codes.reshape(-1).tolist() == weights
    np.testing.assert_array_equal(encode(trits.astype(np.float32), "i2_s").planes["codes"], codes + 1)
    for numbers in ([2], [-2], [0.5], [np.nan]):
        with pytest.raises(WeightError, match=r"expected -1, 0 and \+1 alone"):
            encode_trit(np.array(numbers))
    with pytest.raises(WeightError, match="code 3 has no meaning"):
        decode_trit(np.array([1, 3], np.uint8))
