"""Files of tensors: read and written as their own projects do, and turned into each other."""

import importlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import gguf
import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

import onnxquant
from onnxquant import interchange
from onnxquant.errors import CheckpointError, OutputError, RecipeError
from onnxquant.interchange.schemes.base import codes_to_words, words_to_codes

_GGML = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ2_0", "MXFP4"]
_DECODED_ONLY = ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]


def _each(cases: Iterable, check: Callable) -> None:
    """Check every case, of which there is one at least."""
    listed = list(cases)
    assert listed
    for case in listed:
        check(case)


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _gguf(path: Path, alignment: int = 32) -> Path:
    """A GGUF file by gguf's own writer, with a tensor of every type that it can quantize."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_string("a.text", "wörds")
    writer.add_array("a.texts", ["a", "", "ccc"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_float64("a.number", 1.5)
    writer.add_bool("a.flag", True)
    for name in _GGML:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quants.quantize(_normal(6, 512), kind), raw_dtype=kind)
    rng = np.random.default_rng(1)
    for name in _DECODED_ONLY:  # bytes at random, but for the float16 scales, of which some would be NaN
        kind = gguf.GGMLQuantizationType[name]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 60, (6, 512 // block * size), np.uint8)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.add_tensor("F32", _normal(3, 5, 7))
    writer.add_tensor("F16", _normal(4).astype(np.float16))
    writer.add_tensor("I32", np.arange(6, dtype=np.int32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_is_decoded_as_ggufs_own_reader_does(tmp_path: Path) -> None:
    path = _gguf(tmp_path / "m.gguf")
    checkpoint = interchange.open_checkpoint(path)
    tensors = gguf.GGUFReader(path).tensors
    assert list(checkpoint.tensors) == [tensor.name for tensor in tensors]

    def same(tensor: gguf.ReaderTensor) -> None:
        exact = tensor.data
        if tensor.name not in ("F32", "F16", "I32"):
            exact = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(checkpoint[tensor.name].array(), exact)

    _each(tensors, same)


def test_metadata_of_gguf_has_the_values_that_were_written(tmp_path: Path) -> None:
    metadata = interchange.open_checkpoint(_gguf(tmp_path / "m.gguf")).metadata
    assert dict(metadata) == {
        "general.architecture": "llama", "a.text": "wörds", "a.texts": ["a", "", "ccc"], "a.numbers": [1, -2, 3],
        "a.number": 1.5, "a.flag": True,
    }  # fmt: skip


@pytest.mark.parametrize("alignment", [32, 128])
def test_gguf_is_written_byte_by_byte_as_ggufs_own_writer_does(tmp_path: Path, alignment: int) -> None:
    path = _gguf(tmp_path / "m.gguf", alignment)
    interchange.convert(path, tmp_path / "n.gguf")
    assert (tmp_path / "n.gguf").read_bytes() == path.read_bytes()


def test_version_two_of_gguf_is_read_alike(tmp_path: Path) -> None:
    raw = bytearray(_gguf(tmp_path / "m.gguf").read_bytes())
    raw[4] = 2
    (tmp_path / "v2.gguf").write_bytes(raw)
    np.testing.assert_array_equal(
        interchange.open_checkpoint(tmp_path / "v2.gguf")["Q4_0"].array(),
        interchange.open_checkpoint(tmp_path / "m.gguf")["Q4_0"].array(),
    )


def test_parts_of_a_split_gguf_are_one_checkpoint(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", _normal(4, seed=i))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == 3
    checkpoint = interchange.open_checkpoint(parts[1])
    assert sorted(checkpoint.tensors) == [f"t{i}" for i in range(5)]
    np.testing.assert_array_equal(checkpoint["t4"].array(), _normal(4, seed=4))
    assert not [key for key in checkpoint.metadata if key.startswith("split.")]
    parts[2].unlink()
    with pytest.raises(CheckpointError, match=r"m-00003-of-00003\.gguf is not beside it"):
        interchange.open_checkpoint(parts[0])


def _encoded() -> dict[str, onnxquant.Encoded | np.ndarray]:
    weights: dict[str, onnxquant.Encoded | np.ndarray] = {}
    for form in onnxquant.formats.formats():
        for permuted in (False, True):
            weight = onnxquant.encode(_normal(8, 512, seed=form.bits), form.name, permuted=permuted)
            weights[f"{form.name}.{permuted}"] = weight
    return weights | {"integers": np.arange(5), "float": _normal(2, 3), "scalar": np.array(2.5)}


def test_axqt_keeps_every_format_in_every_order(tmp_path: Path) -> None:
    weights = _encoded()
    interchange.save(tmp_path / "w.axqt", weights, metadata={"a": [1, "b", {"c": None}]})
    checkpoint = interchange.open_checkpoint(tmp_path / "w.axqt")
    assert checkpoint.metadata == {"a": [1, "b", {"c": None}]}
    assert list(checkpoint.tensors) == list(weights)

    def same(name: str) -> None:
        value, weight = checkpoint[name].load(), weights[name]
        if isinstance(weight, np.ndarray):
            np.testing.assert_array_equal(value, weight)
            return
        assert value.format == weight.format
        assert {k: (p.dtype, p.tobytes()) for k, p in value.planes.items()} == {
            k: (p.dtype, p.tobytes()) for k, p in weight.planes.items()
        }

    _each(list(weights), same)


@pytest.mark.parametrize("name", ["w", "v"])
def test_a_changed_bit_of_axqt_is_an_error_of_its_tensor(tmp_path: Path, name: str) -> None:
    values = {"w": onnxquant.encode(_normal(8, 64), "int4"), "v": _normal(3)}
    interchange.save(tmp_path / "w.axqt", values)
    raw = bytearray((tmp_path / "w.axqt").read_bytes())
    part = values["v"].tobytes() if name == "v" else values["w"].planes["scales"].tobytes()
    raw[raw.index(part)] ^= 1
    (tmp_path / "w.axqt").write_bytes(raw)
    tensors = interchange.open_checkpoint(tmp_path / "w.axqt").tensors
    with pytest.raises(CheckpointError, match=f"'{name}' is damaged"):
        tensors.pop(name).load()
    next(iter(tensors.values())).load()


def test_version_one_of_axqt_has_codes_two_by_two(tmp_path: Path) -> None:
    """Element 2i is the low half of a byte, and element 2i + 1 the high half."""
    weight = onnxquant.encode(_normal(2, 64), "q4_0")
    interchange.save(tmp_path / "w.axqt1", {"w": weight})
    raw = (tmp_path / "w.axqt1").read_bytes()
    assert raw[:18] == b"AXQT\x01\x01" + (1).to_bytes(4, "little") + (128).to_bytes(8, "little")
    block = raw[18 + 16 :][:18]
    np.testing.assert_array_equal(np.frombuffer(block[:2], np.float16), weight.planes["scales"][0, :1])
    codes = np.frombuffer(block[2:], np.uint8)
    np.testing.assert_array_equal(codes & 15, weight.planes["codes"][0, 0:32:2])
    np.testing.assert_array_equal(codes >> 4, weight.planes["codes"][0, 1:32:2])
    (tensor,) = interchange.open_checkpoint(tmp_path / "w.axqt1").tensors.values()
    np.testing.assert_array_equal(tensor.array(), onnxquant.decode(weight))


def test_types_that_version_one_of_axqt_loses_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.axqt").write_bytes(b"AXQT\x01\x03" + bytes(12))
    with pytest.raises(CheckpointError, match="Q5_0"):
        interchange.open_checkpoint(tmp_path / "w.axqt")


def test_q8k_files_have_the_bytes_of_their_definition(tmp_path: Path) -> None:
    weight = onnxquant.encode(_normal(4, 512), "q8_k", permuted=True)
    interchange.save(tmp_path / "w_q8k", {"a/b.weight": weight})
    raw = (tmp_path / "w_q8k" / "a%2Fb.weight.q8k").read_bytes()
    assert np.frombuffer(raw[:24], "<u4").tolist() == [0x4B513838, 1, 4, 512, 2, 0x18]
    scales = np.frombuffer(raw[24:], np.uint8).reshape(8, 292)[:, :4].copy().view("<f4")
    np.testing.assert_array_equal(scales.reshape(4, 2), weight.planes["scales"])
    order = np.frombuffer((tmp_path / "w_q8k" / "a%2Fb.weight.perm").read_bytes(), "<u4")
    assert order[:2].tolist() == [0x4D524550, 512]
    np.testing.assert_array_equal(order[2:], weight.planes["permutation"])
    tensor = interchange.open_checkpoint(tmp_path / "w_q8k")["a/b.weight"]
    np.testing.assert_array_equal(tensor.array(), onnxquant.decode(weight))


@pytest.mark.parametrize("source", ["w.axqt", "w_q8k"])
def test_bytes_that_move_are_compared_with_their_checksum(tmp_path: Path, source: str) -> None:
    weight = onnxquant.encode(_normal(1024, 1024), "q8_k")  # more than is written at a time
    interchange.save(tmp_path / source, {"w": weight})
    interchange.convert(tmp_path / source, tmp_path / "w.gguf")
    np.testing.assert_array_equal(
        interchange.open_checkpoint(tmp_path / "w.gguf")["w"].array(), onnxquant.decode(weight)
    )
    (tmp_path / "w.gguf").unlink()
    path = tmp_path / source / "w.q8k" if source == "w_q8k" else tmp_path / source
    raw = bytearray(path.read_bytes())
    raw[600_000] ^= 1
    path.write_bytes(raw)
    for output in ("w.gguf", "again.axqt"):
        with pytest.raises(CheckpointError, match="is damaged"):
            interchange.convert(tmp_path / source, tmp_path / output)
        assert not (tmp_path / output).exists()


@pytest.mark.parametrize("end", [".q8k", ".perm"])
def test_a_damaged_or_missing_file_of_a_q8k_folder_is_an_error(tmp_path: Path, end: str) -> None:
    interchange.save(tmp_path / "w_q8k", {"w": onnxquant.encode(_normal(4, 256), "q8_k", permuted=True)})
    path = tmp_path / "w_q8k" / f"w{end}"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=path.name):
        interchange.open_checkpoint(tmp_path / "w_q8k")["w"].load()
    path.unlink()
    if end == ".perm":
        with pytest.raises(CheckpointError, match=path.name):
            interchange.open_checkpoint(tmp_path / "w_q8k")


def test_q8k_folders_without_an_index_are_read(tmp_path: Path) -> None:
    weights = {
        "a": onnxquant.encode(_normal(4, 256), "q8_k", permuted=True),
        "b": onnxquant.encode(_normal(2, 512), "q8_k"),
    }
    interchange.save(tmp_path / "w_q8k", weights)
    (tmp_path / "w_q8k" / "index.json").unlink()
    checkpoint = interchange.open_checkpoint(tmp_path / "w_q8k")
    _each(
        list(weights),
        lambda name: np.testing.assert_array_equal(checkpoint[name].array(), onnxquant.decode(weights[name])),
    )


# ---- safetensors ----


def _safetensors(path: Path, arrays: dict[str, np.ndarray], config: dict | None = None) -> Path:
    """A file by plain writing of the format, with a config.json beside."""
    header, at = {}, 0
    names = {"float16": "F16", "float32": "F32", "int32": "I32", "uint8": "U8", "int64": "I64", "int8": "I8"}
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(a.tobytes() for a in arrays.values()))
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps({"quantization_config": config}))
    return path


def test_floats_are_read_and_written_as_safetensors_defines_them(tmp_path: Path) -> None:
    arrays = {
        "a": _normal(3, 5),
        "b": _normal(4).astype(np.float16),
        "c": np.arange(3, dtype=np.int64),
        "d": np.zeros((0, 4), np.int8),
    }
    path = _safetensors(tmp_path / "a.safetensors", arrays)
    interchange.convert(path, tmp_path / "b.safetensors")
    for file in (path, tmp_path / "b.safetensors"):
        checkpoint = interchange.open_checkpoint(file)
        _each(list(arrays), lambda n, c=checkpoint: np.testing.assert_array_equal(c[n].array(), arrays[n]))


def test_an_index_names_the_files_of_one_checkpoint(tmp_path: Path) -> None:
    for i in range(2):
        _safetensors(tmp_path / f"model-{i}.safetensors", {f"t{i}": _normal(3, seed=i)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"t{i}": f"model-{i}.safetensors" for i in range(2)}}))
    assert list(interchange.open_checkpoint(tmp_path).tensors) == ["t0", "t1"]
    index.write_text(json.dumps({"weight_map": {"t0": "../model-0.safetensors"}}))
    with pytest.raises(CheckpointError, match="not beside it"):
        interchange.open_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"t0": "model-0.safetensors", "t7": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors: has no tensor 't7', which the index says"):
        interchange.open_checkpoint(tmp_path)


def _gptq_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes packed along the first axis by plain arithmetic: bit b of code k is bit (k * bits + b) of a stream."""
    length, width = codes.shape
    words = [[0] * width for _ in range(length * bits // 32)]
    for k in range(length):
        for n in range(width):
            for b in range(bits):
                place = k * bits + b
                words[place // 32][n] |= (int(codes[k, n]) >> b & 1) << place % 32
    return np.array(words, np.uint32).view(np.int32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_is_decoded_by_its_formula(tmp_path: Path, bits: int, version: str) -> None:
    rng = np.random.default_rng(bits)
    size, group, width = 128, 32, 32
    codes = rng.integers(0, 1 << bits, (size, width))
    zeros = rng.integers(0, 1 << bits, (size // group, width))
    scales = rng.uniform(0.01, 0.1, zeros.shape).astype(np.float16)
    group_of = rng.permutation(np.arange(size) // group).astype(np.int32)
    stored = zeros if version == "gptq_v2" else (zeros - 1) % (1 << bits)
    arrays = {
        "l.qweight": _gptq_words(codes, bits), "l.qzeros": np.ascontiguousarray(_gptq_words(stored.T, bits).T),
        "l.scales": scales, "l.g_idx": group_of,
    }  # fmt: skip
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": version}
    checkpoint = interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", arrays, config))
    exact = (codes - zeros[group_of]).astype(np.float32) * scales[group_of].astype(np.float32)
    np.testing.assert_array_equal(checkpoint["l.weight"].array(), exact.T)
    if bits < 8 or version == "gptq_v2":
        interchange.convert(checkpoint, tmp_path / "n.safetensors")
        (tmp_path / "config.json").unlink()
        np.testing.assert_array_equal(
            interchange.open_checkpoint(tmp_path / "n.safetensors")["l.weight"].array(), exact.T
        )


def test_golden_words_of_gptq_and_awq(tmp_path: Path) -> None:
    assert codes_to_words(np.arange(8, dtype=np.uint8)[None], 4).view(np.uint32).tolist() == [[0x76543210]]
    arrays = {
        "l.qweight": np.full((32, 1), 0x75316420, np.uint32).view(np.int32), "l.qzeros": np.zeros((1, 1), np.int32),
        "l.scales": np.ones((1, 8), np.float16),
    }  # fmt: skip
    values = interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", arrays))["l.weight"].array()
    np.testing.assert_array_equal(values, np.repeat(np.arange(8, dtype=np.float32)[:, None], 32, axis=1))


def test_symmetric_zero_points_tell_the_version_of_gptq(tmp_path: Path) -> None:
    arrays = {"l.qweight": np.zeros((8, 32), np.int32), "l.scales": np.ones((2, 32), np.float16)}
    for word, value in ((0x77777777, -8.0), (0x88888888, -8.0)):
        zeros = np.full((2, 4), word, np.uint32).view(np.int32)
        checkpoint = interchange.open_checkpoint(
            _safetensors(tmp_path / "m.safetensors", {**arrays, "l.qzeros": zeros})
        )
        assert np.unique(checkpoint["l.weight"].array()).tolist() == [value]
    zeros = np.full((2, 4), 0x12345678, np.uint32).view(np.int32)
    with pytest.raises(CheckpointError, match="which version of GPTQ"):
        interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", {**arrays, "l.qzeros": zeros}))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_compressed_tensors_are_decoded_by_their_formula(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(bits)
    codes, zeros = rng.integers(0, 1 << bits, (32, 96)), rng.integers(0, 1 << bits, (32, 3))
    scales = rng.uniform(0.01, 0.1, (32, 3)).astype(np.float16)
    arrays = {
        "l.weight_packed": np.ascontiguousarray(_gptq_words(codes.T, bits).T), "l.weight_scale": scales,
        "l.weight_zero_point": _gptq_words(zeros, bits), "l.weight_shape": np.array([32, 96]),
    }  # fmt: skip
    values = interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", arrays))["l.weight"].array()
    exact = (codes - zeros.repeat(32, axis=1)).astype(np.float32) * scales.astype(np.float32).repeat(32, axis=1)
    np.testing.assert_array_equal(values, exact)


@pytest.mark.parametrize(
    ("config", "scale"), [({"linear_class": "autobitlinear"}, 0.5), ({"linear_class": "bitlinear"}, 2.0)]
)
def test_bitnet_multiplies_or_divides_by_its_scale(tmp_path: Path, config: dict, scale: float) -> None:
    trits = np.random.default_rng(0).integers(-1, 2, (8, 16))
    packed = sum((trits[2 * i : 2 * i + 2] + 1) << 2 * i for i in range(4)).astype(np.uint8)
    arrays = {"l.weight": packed, "l.weight_scale": np.array([0.5], np.float32)}
    values = interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", arrays, config))["l.weight"].array()
    np.testing.assert_array_equal(values, trits.astype(np.float32) * np.float32(scale))


def test_words_of_three_bits_cross_their_ends() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (5, 64), np.uint8)
    np.testing.assert_array_equal(words_to_codes(codes_to_words(codes, 3), 3, 64), codes)


@pytest.mark.parametrize(("form", "other"), [("q4_0", "int4"), ("q8_0", "int8")])
def test_codes_survive_the_way_through_gptq(tmp_path: Path, form: str, other: str) -> None:
    weight = onnxquant.encode(_normal(32, 64), form)
    interchange.save(tmp_path / "a.gguf", {"l.weight": weight})
    interchange.convert(tmp_path / "a.gguf", tmp_path / "b.safetensors")
    assert interchange.open_checkpoint(tmp_path / "b.safetensors")["l.weight"].label == other
    interchange.convert(tmp_path / "b.safetensors", tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes()[-1024:] == (tmp_path / "a.gguf").read_bytes()[-1024:]
    np.testing.assert_array_equal(
        interchange.open_checkpoint(tmp_path / "c.gguf")["l.weight"].array(), onnxquant.decode(weight)
    )


@pytest.mark.parametrize("container", ["gguf", "safetensors"])
def test_weights_in_float_formats_are_arrays_of_floats(tmp_path: Path, container: str) -> None:
    weights = {form: onnxquant.encode(_normal(8, 32), form) for form in ("f16", "bf16")}
    interchange.save(tmp_path / f"a.{container}", weights)
    checkpoint = interchange.open_checkpoint(tmp_path / f"a.{container}")
    assert [tensor.label for tensor in checkpoint.tensors.values()] == ["float16", "bfloat16"]
    _each(
        weights,
        lambda f: np.testing.assert_array_equal(checkpoint[f].array().astype(np.float32), onnxquant.decode(weights[f])),
    )


# ---- refusals ----


def test_tensors_that_do_not_fit_are_named_with_the_reason(tmp_path: Path) -> None:
    interchange.save(tmp_path / "a.axqt", {"w": onnxquant.encode(_normal(4, 256), "q8_k"), "bias": _normal(4)})
    with pytest.raises(
        CheckpointError, match=r"1 of 2 tensors .* \(bias: .q8k files hold q8_k, and no float32\); --leave-out"
    ):
        interchange.convert(tmp_path / "a.axqt", tmp_path / "b_q8k")
    result = interchange.convert(tmp_path / "a.axqt", tmp_path / "b_q8k", leave_out=True)
    assert [entry.name for entry in result.left_out] == ["bias"]


def test_a_name_of_an_output_that_says_no_container_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"\.gguf, \.q8k.*--to"):
        interchange.save(tmp_path / "a.bin", {"w": _normal(3)})


@pytest.mark.parametrize("container", ["gguf", "safetensors", "axqt"])
def test_every_truncation_is_one_clear_error(tmp_path: Path, container: str) -> None:
    weights = {"w.weight": onnxquant.encode(_normal(32, 64), "q4_0"), "v": _normal(3)}
    interchange.save(tmp_path / f"a.{container}", weights, metadata={"k": "v", "l": "w"})
    raw = (tmp_path / f"a.{container}").read_bytes()

    def fails(length: int) -> None:
        path = tmp_path / f"{length}.{container}"
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            interchange.open_checkpoint(path)
        path.unlink()

    _each([*range(0, len(raw) - 32, 7), len(raw) - 33], fails)


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("fuzz_checkpoints")


_KINDS = (
    "gguf", "gguf-v2", "gguf-split", "safetensors", "sharded", "bitsandbytes", "gptq", "gptq-v1", "awq",
    "compressed-tensors", "bitnet", "q8k", "q8k-without-index", "axqt-v1", "axqt", "tensor",
)  # fmt: skip


@pytest.mark.parametrize("kind", _KINDS)
def test_damaged_files_of_every_kind_are_errors_of_ours_or_read(tmp_path: Path, fuzz: ModuleType, kind: str) -> None:
    (tmp_path / "files").mkdir()
    run = fuzz.Run(kind, tmp_path / "files", tmp_path, mutations=60, seed=0)
    outcomes = [outcome for _, outcome in run.outcomes()]
    assert len(outcomes) == 60
    assert "refused" in outcomes
    assert set(outcomes) <= {"read", "refused"}


# ---- quantization without a graph ----


def _floats(path: Path) -> dict[str, np.ndarray]:
    weights = {
        f"l.self_attn.{part}_proj.weight": _normal(64, 256, seed=ord(part)) * np.linspace(0.1, 1, 256, dtype=np.float32)
        for part in "qkvo"
    }
    arrays = {**weights, "conv.weight": _normal(64, 16, 4, 4), "norm.weight": _normal(64)}
    _safetensors(path, arrays)
    return arrays


def test_weights_are_quantized_and_the_rest_is_kept(tmp_path: Path) -> None:
    arrays = _floats(tmp_path / "a.safetensors")
    report = interchange.quantize(tmp_path / "a.safetensors", tmp_path / "b.axqt", "int4")
    assert report.passed
    assert sorted(t.name for t in report.quantized) == sorted(name for name in arrays if name != "norm.weight")
    checkpoint = interchange.open_checkpoint(tmp_path / "b.axqt")
    np.testing.assert_array_equal(checkpoint["norm.weight"].array(), arrays["norm.weight"])
    matrix = arrays["conv.weight"].reshape(64, 256)
    np.testing.assert_array_equal(
        checkpoint["conv.weight"].array().reshape(64, 256), onnxquant.decode(onnxquant.encode(matrix, "int4"))
    )
    exact = [np.square(checkpoint[t.name].array() - arrays[t.name], dtype=np.float64).mean() for t in report.quantized]
    np.testing.assert_allclose([t.mse for t in report.quantized], exact, rtol=1e-5)
    np.testing.assert_allclose(report.mean_mse, np.mean(exact), rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "file_type"), [("q4_0", "MOSTLY_Q4_0"), ("q4_k", "MOSTLY_Q4_K_S"), ("bf16", "MOSTLY_BF16"), ("q8_k", None)]
)
def test_gguf_says_which_format_its_weights_became(tmp_path: Path, form: str, file_type: str | None) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_uint64("a.count", 5)
    writer.add_tensor("w", _normal(8, 256))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    interchange.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", form)
    fields = gguf.GGUFReader(tmp_path / "b.gguf").fields
    assert fields["a.count"].contents() == 5
    assert fields["general.quantization_version"].contents() == gguf.GGML_QUANT_VERSION
    if file_type is None:  # llama.cpp has no type of file for it
        assert "general.file_type" not in fields
    else:
        assert fields["general.file_type"].contents() == gguf.LlamaFileType[file_type]


@pytest.mark.parametrize("end", ["_scale", "_scale_inv"])
def test_floats_that_a_scale_belongs_to_are_not_quantized_without_it(tmp_path: Path, end: str) -> None:
    weight = _normal(32, 64).astype(ml_dtypes.float8_e4m3fn)
    interchange.save(
        tmp_path / "a.safetensors", {"l.weight": weight, f"l.weight{end}": _normal(1), "m.weight": _normal(32, 64)}
    )
    with pytest.raises(CheckpointError, match=rf"tensor l\.weight: .*multiplied by l\.weight{end}; .*--exclude"):
        interchange.quantize(tmp_path / "a.safetensors", tmp_path / "b.axqt", "q4_0")
    report = interchange.quantize(tmp_path / "a.safetensors", tmp_path / "b.axqt", "q4_0", exclude="^l")
    assert [tensor.name for tensor in report.quantized] == ["m.weight"]


def test_queries_keys_and_values_share_one_order(tmp_path: Path) -> None:
    arrays = _floats(tmp_path / "a.safetensors")
    interchange.quantize(
        tmp_path / "a.safetensors", tmp_path / "b_q8k", "q8_k", permutation="attention", leave_out=True
    )
    checkpoint = interchange.open_checkpoint(tmp_path / "b_q8k")
    orders = {part: checkpoint[f"l.self_attn.{part}_proj.weight"].encoded().planes["permutation"] for part in "qkvo"}
    stacked = np.concatenate([arrays[f"l.self_attn.{part}_proj.weight"] for part in "qkv"]).astype(np.float64)
    shared = np.argsort(-np.square(stacked).sum(axis=0), kind="stable")
    _each("qkv", lambda part: np.testing.assert_array_equal(orders[part], shared))
    own = np.argsort(-np.square(arrays["l.self_attn.o_proj.weight"].astype(np.float64)).sum(axis=0), kind="stable")
    np.testing.assert_array_equal(orders["o"], own)


def test_sizes_of_activations_order_columns(tmp_path: Path) -> None:
    arrays = _floats(tmp_path / "a.safetensors")
    rng = np.random.default_rng(0)
    sizes = {name: rng.uniform(size=array.size // len(array)) for name, array in arrays.items() if array.ndim > 1}
    interchange.quantize(
        tmp_path / "a.safetensors", tmp_path / "b.axqt", "int4", permutation="activation", activations=sizes
    )
    checkpoint = interchange.open_checkpoint(tmp_path / "b.axqt")
    _each(
        list(sizes),
        lambda n: np.testing.assert_array_equal(
            checkpoint[n].encoded().planes["permutation"], np.argsort(-sizes[n], kind="stable")
        ),
    )


def test_nothing_to_quantize_says_why(tmp_path: Path) -> None:
    _safetensors(tmp_path / "a.safetensors", {"w": _normal(64, 100)})
    with pytest.raises(CheckpointError, match=r"none of 1 tensors can be q4_0 in gguf \(w: .*blocks of 32"):
        interchange.quantize(tmp_path / "a.safetensors", tmp_path / "b.gguf", "q4_0")


# ---- hostile files, and outputs that would do harm ----


def _raw_safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def _floats_at(begin: int, end: int, shape: list[int]) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}},
        {"a": _floats_at(0, 8, [2]), "b": _floats_at(4, 12, [2])},
        {"a": _floats_at(0, 0, [0, 1 << 62, 1 << 62])},
        {"a\x1b[2J": _floats_at(0, 4, [1])},
        {"a" * 5000: _floats_at(0, 4, [1])},
        b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": 1, "a": 2}',
        b"[" * 5000,
    ],
)
def test_headers_that_lie_are_one_clear_error(tmp_path: Path, header: object) -> None:
    path = _raw_safetensors(tmp_path / "a.safetensors", header, bytes(12))
    with pytest.raises(CheckpointError, match=str(path)):
        interchange.open_checkpoint(path)


def test_groups_that_are_not_there_take_no_memory(tmp_path: Path) -> None:
    arrays = {
        "l.weight_packed": np.zeros((8, 4), np.int32), "l.weight_scale": np.ones((8, 2), np.float16),
        "l.weight_shape": np.array([8, 32]), "l.weight_g_idx": np.full(32, 2**31 - 1, np.int32),
    }  # fmt: skip
    with pytest.raises(CheckpointError, match="one of 2 groups"):
        interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", arrays))


def test_a_name_that_a_plain_and_a_quantized_tensor_have_is_refused(tmp_path: Path) -> None:
    packed = {"l.weight_packed": np.zeros((8, 4), np.int32), "l.weight_scale": np.ones((8, 1), np.float16)}
    arrays = {**packed, "l.weight_shape": np.array([8, 32]), "l.weight": _normal(8, 32)}
    with pytest.raises(CheckpointError, match=r"'l\.weight' is there both plain and quantized"):
        interchange.open_checkpoint(_safetensors(tmp_path / "m.safetensors", arrays))


def test_tensors_of_gguf_that_share_bytes_are_refused(tmp_path: Path) -> None:
    interchange.save(tmp_path / "a.gguf", {"a": _normal(8), "b": _normal(8, seed=1)})
    raw = (tmp_path / "a.gguf").read_bytes()
    place = raw.index((32).to_bytes(8, "little"), 40)
    (tmp_path / "a.gguf").write_bytes(raw[:place] + bytes(8) + raw[place + 8 :])
    with pytest.raises(CheckpointError, match="shares bytes"):
        interchange.open_checkpoint(tmp_path / "a.gguf")


@pytest.mark.parametrize("entry", [{"file": "../w.q8k"}, {"file": "w.q8k", "permutation": "../../w.perm"}])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, entry: dict) -> None:
    interchange.save(tmp_path / "w_q8k", {"w": onnxquant.encode(_normal(4, 256), "q8_k")})
    (tmp_path / "w_q8k" / "index.json").write_text(json.dumps({"tensors": {"w": entry}}))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        interchange.open_checkpoint(tmp_path / "w_q8k")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "empty.gguf").touch()

    def refused(name: str) -> None:
        with pytest.raises(CheckpointError):
            interchange.open_checkpoint(tmp_path / name)

    _each(["fifo.gguf", "folder.gguf", "empty.gguf", "none.gguf", "x" * 300, "x" * 70000], refused)


def test_zeros_of_size_and_of_axes_survive_every_container(tmp_path: Path) -> None:
    arrays = {"none": np.zeros((0, 64), np.float32), "scalar": np.array(2.5, np.float32), "more": _normal(2, 3, 4)}
    for end in ("gguf", "safetensors", "axqt"):
        interchange.save(tmp_path / f"a.{end}", arrays)
        checkpoint = interchange.open_checkpoint(tmp_path / f"a.{end}")
        _each(
            arrays, lambda name, c=checkpoint: np.testing.assert_array_equal(c[name].array(), arrays[name], strict=True)
        )


def test_an_output_is_no_part_of_its_source(tmp_path: Path) -> None:
    for number in (1, 2):
        file = tmp_path / f"m-0000{number}-of-00002.gguf"
        interchange.save(file, {f"t{number}": _normal(4)}, metadata={"split.tensors.count": 2})
    before = (tmp_path / "m-00002-of-00002.gguf").read_bytes()
    with pytest.raises(OutputError, match="is a part of the source"):
        interchange.convert(tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf", force=True)
    assert (tmp_path / "m-00002-of-00002.gguf").read_bytes() == before


@pytest.mark.parametrize("container", ["q8k", "safetensors"])
def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path, container: str) -> None:
    interchange.save(
        tmp_path / "a.axqt", {"w": onnxquant.encode(_normal(4, 256), "q8_k" if container == "q8k" else "nf4")}
    )
    output = tmp_path / "out"
    interchange.convert(tmp_path / "a.axqt", output, to=container)
    interchange.convert(tmp_path / "a.axqt", output, to=container, force=True)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        interchange.convert(tmp_path / "a.axqt", output, to=container, force=True)
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("container", ["q8k", "safetensors", "gguf"])
def test_an_interruption_leaves_what_was_there(tmp_path: Path, container: str) -> None:
    weights = {name: onnxquant.encode(_normal(4, 256), "q8_k") for name in "ab"}
    folder = tmp_path / "out_q8k" if container == "q8k" else tmp_path / f"out.{container}"
    if container == "safetensors":
        weights = {name: onnxquant.encode(_normal(4, 256), "nf4") for name in "ab"}
        folder = tmp_path / "out"
    interchange.save(tmp_path / "a.axqt", weights)
    interchange.convert(tmp_path / "a.axqt", folder, to=container)

    def contents() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}

    def interrupt(stage: str, done: float) -> None:
        if done:
            raise KeyboardInterrupt

    before = contents()
    with pytest.raises(KeyboardInterrupt):
        interchange.convert(tmp_path / "a.axqt", folder, to=container, force=True, progress=interrupt)
    assert contents() == before


# ---- metadata on their way through other containers ----


def test_alignment_and_numbers_of_gguf_come_back_through_axqt(tmp_path: Path) -> None:
    interchange.convert(_gguf(tmp_path / "m.gguf", 64), tmp_path / "m.axqt")
    interchange.convert(tmp_path / "m.axqt", tmp_path / "n.gguf")
    first, second = (interchange.open_checkpoint(tmp_path / f"{n}.gguf") for n in "mn")
    assert dict(second.metadata) == dict(first.metadata)
    assert [tensor.data_offset % 64 for tensor in gguf.GGUFReader(tmp_path / "n.gguf").tensors] == [0] * len(
        second.tensors
    )


@pytest.mark.parametrize("alignment", [0, 7, "many", True, 1 << 40])
def test_metadata_that_say_no_alignment_do_no_harm(tmp_path: Path, alignment: object) -> None:
    interchange.save(tmp_path / "a.gguf", {"a": _normal(3), "b": _normal(3)}, metadata={"general.alignment": alignment})
    assert "general.alignment" not in interchange.open_checkpoint(tmp_path / "a.gguf").metadata
    assert len(gguf.GGUFReader(tmp_path / "a.gguf").tensors) == 2


def test_numbers_of_metadata_have_the_types_that_llama_cpp_reads(tmp_path: Path) -> None:
    metadata = {
        "a.block_count": 22,
        "a.negative": -3,
        "a.types": [1, 2],
        "a.eps": 1e-5,
        "a.object": {"b": [1, None]},
        "a.huge": 10**30,
        "a.beyond": 1e300,
        "a.scores": [0.1, -1.0],
    }
    interchange.save(tmp_path / "a.gguf", {"a": _normal(3)}, metadata=metadata)
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    kinds = {key: [kind.name for kind in fields[key].types] for key in metadata}
    assert kinds == {
        "a.block_count": ["UINT32"], "a.negative": ["INT32"], "a.types": ["ARRAY", "INT32"], "a.eps": ["FLOAT32"],
        "a.object": ["STRING"], "a.huge": ["STRING"], "a.beyond": ["FLOAT64"], "a.scores": ["ARRAY", "FLOAT32"],
    }  # fmt: skip


# ---- folders of safetensors ----


def test_a_folder_is_cut_into_files_with_an_index(tmp_path: Path) -> None:
    arrays = {f"l{i}.weight": _normal(16, 64, seed=i) for i in range(4)}
    source = tmp_path / "source"
    source.mkdir()
    _safetensors(source / "model.safetensors", arrays)
    (source / "config.json").write_text(json.dumps({"model_type": "a", "quantization_config": {"old": 1}}))
    interchange.quantize(
        source, tmp_path / "out", "nf4", to="safetensors", exclude="l3", double_quant=True, shard_bytes=4500
    )
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == [
        "config.json",
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = {name: file for file in files[1:4] for name in load_file(tmp_path / "out" / file)}
    assert index["weight_map"] == names
    assert index["metadata"]["total_size"] == sum(
        a.nbytes for f in files[1:4] for a in load_file(tmp_path / "out" / f).values()
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "a"
    assert (
        config["quantization_config"]
        | {"bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["l3", "lm_head", "embed_out"]}
        == config["quantization_config"]
    )
    assert [t.label for t in interchange.open_checkpoint(tmp_path / "out").tensors.values()] == ["nf4"] * 3 + [
        "float32"
    ]
    assert json.loads((source / "config.json").read_text())["quantization_config"] == {"old": 1}


def test_the_configuration_of_gptq_says_its_version_bits_and_groups(tmp_path: Path) -> None:
    weight = onnxquant.encode(_normal(32, 256), "int4", block_size=128, symmetric=False)
    interchange.save(tmp_path / "out", {"l.weight": weight}, to="safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    said = {"quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": 4, "group_size": 128, "sym": False}
    assert config | said == config
    np.testing.assert_array_equal(
        interchange.open_checkpoint(tmp_path / "out")["l.weight"].array(), onnxquant.decode(weight)
    )


def test_the_configuration_of_gptq_names_weights_of_other_kinds_and_plain_matrices(tmp_path: Path) -> None:
    weights = {f"model.layers.{i}.q.weight": onnxquant.encode(_normal(32, 64), "int4", block_size=32) for i in range(3)}
    weights["model.layers.2.q.weight"] = onnxquant.encode(_normal(32, 64), "int8", block_size=64, symmetric=False)
    rest = {"lm_head.weight": weights["model.layers.0.q.weight"], "model.layers.0.gate.weight": _normal(4, 64)}
    interchange.save(tmp_path / "out", {**weights, **rest, "model.norm.weight": _normal(64)}, to="safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    other = {"bits": 8, "group_size": -1, "desc_act": False, "sym": False}
    assert config["dynamic"] == {
        r"+:^model\.layers\.2\.q$": other | {"group_size": 64},
        r"-:^model\.layers\.0\.gate$": {},
    }
    assert config["bits"] == 4 and config["lm_head"]
    names = [f"model.layers.{i}.q" for i in range(3)]
    assert config["modules_in_block_to_quantize"] == [[*names, "lm_head"]]
    read = interchange.open_checkpoint(tmp_path / "out")
    for name, weight in weights.items():
        np.testing.assert_array_equal(read[name].array(), onnxquant.decode(weight))


@pytest.mark.parametrize("key", ["checkpoint_format", "format"])
def test_a_packing_of_gptq_that_is_not_known_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    weight = onnxquant.encode(_normal(32, 64), "int4", block_size=32, symmetric=False)
    path = tmp_path / "out" / "config.json"
    interchange.save(tmp_path / "out", {"l.weight": weight}, to="safetensors")
    path.write_text(json.dumps({"quantization_config": {"quant_method": "gptq", key: "gptq_v2", "bits": 4}}))
    read = interchange.open_checkpoint(tmp_path / "out")["l.weight"]
    np.testing.assert_array_equal(read.array(), onnxquant.decode(weight))
    path.write_text(json.dumps({"quantization_config": {"quant_method": "gptq", key: "marlin", "bits": 4}}))
    with pytest.raises(CheckpointError, match="its format is 'marlin'; expected 'gptq' or 'gptq_v2'"):
        interchange.open_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("module", ["lm_head", "model.gate"])
def test_bitsandbytes_is_told_of_a_head_only_where_the_file_does_not_have_it(tmp_path: Path, module: str) -> None:
    interchange.save(tmp_path / "out", {f"{module}.weight": onnxquant.encode(_normal(8, 64), "nf4")}, to="safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert ("lm_head" in config["llm_int8_skip_modules"]) is (module != "lm_head")


def _file_of(folder: Path, container: str) -> Path:
    """A file with a weight in q8_k and a norm, where the container holds one."""
    weight = onnxquant.encode(_normal(4, 256), "q4_0" if container == "safetensors" else "q8_k")
    norm = {} if container == "q8k" else {"norm": _normal(8)}
    path = folder / f"a.{container}"
    interchange.save(path, {"w.weight": weight, **norm})
    return path


@pytest.mark.parametrize(("container", "checksums"), [("gguf", False), ("axqt", True), ("q8k", True)])
def test_a_file_that_was_written_is_whole(tmp_path: Path, container: str, checksums: bool) -> None:
    result = interchange.verify(_file_of(tmp_path, container))
    assert result.passed and result.tensors == (1 if container == "q8k" else 2)
    assert result.has_checksums is checksums
    for file in tmp_path.glob("*/index.json"):
        file.unlink()
        assert not interchange.verify(file.parent).has_checksums


@pytest.mark.parametrize("container", ["axqt", "q8k"])
def test_damage_is_found_in_the_tensor_that_has_it(tmp_path: Path, container: str) -> None:
    path = _file_of(tmp_path, container)
    file = next(path.glob("*.q8k")) if path.is_dir() else path
    raw = bytearray(file.read_bytes())
    raw[200] ^= 1
    file.write_bytes(raw)
    assert [(t.name, "checksum" in t.reason) for t in interchange.verify(path).damaged] == [("w.weight", True)]


def test_numbers_that_are_not_finite_are_damage(tmp_path: Path) -> None:
    mask, nan, scales = _normal(2, 3), _normal(2, 3), _normal(4, 64)
    mask[1, 1], nan[1, 2] = -np.inf, np.nan
    raw = gguf.quants.quantize(scales, gguf.GGMLQuantizationType.Q4_0)
    raw[2, 18:20] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)  # the scale of its second block
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, array in {"mask": mask, "nan": nan}.items():
        writer.add_tensor(name, array)
    writer.add_tensor("scale", raw, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("moved", np.zeros((2, 74), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = interchange.verify(tmp_path / "a.gguf")
    assert {t.name: t.reason for t in result.damaged} == {
        "nan": "element [1, 2] is NaN; expected a number",
        "scale": "element [2, 1] of its scales is inf; expected a finite number",
    }
    assert result.not_decoded == ("moved",)


def test_a_size_of_shards_that_has_no_effect_is_refused(tmp_path: Path) -> None:
    interchange.save(tmp_path / "a.axqt", {"w": _normal(3)})
    with pytest.raises(RecipeError, match="folder of safetensors alone"):
        interchange.convert(tmp_path / "a.axqt", tmp_path / "a.gguf", shard_bytes=10)


def test_the_safetensors_package_reads_what_is_written_and_the_other_way(tmp_path: Path) -> None:
    arrays = {
        "a": _normal(3, 5), "b": _normal(4).astype(np.float16), "c": np.arange(3), "d": np.zeros((0, 4), np.int8),
        "e": np.array(2.5), "f": np.array([True, False]), "g": np.arange(6, dtype=np.uint16).reshape(2, 3),
    }  # fmt: skip
    interchange.save(tmp_path / "ours.safetensors", arrays, metadata={"k": "ä"})
    save_file(arrays, tmp_path / "theirs.safetensors", metadata={"k": "ä"})
    theirs, ours = (
        load_file(tmp_path / "ours.safetensors"),
        interchange.open_checkpoint(tmp_path / "theirs.safetensors"),
    )
    assert ours.metadata == {"k": "ä"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array, strict=True)
        np.testing.assert_array_equal(ours[name].array(), array, strict=True)


def test_the_type_of_the_original_floats_is_kept(tmp_path: Path) -> None:
    interchange.save(tmp_path / "a.safetensors", {"w": _normal(4, 64).astype(ml_dtypes.bfloat16)})
    interchange.quantize(tmp_path / "a.safetensors", tmp_path / "b.axqt", "nf4", min_elements=1)
    interchange.convert(tmp_path / "b.axqt", tmp_path / "c.safetensors")
    interchange.convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
    state = load_file(tmp_path / "d.safetensors")["w.quant_state.bitsandbytes__nf4"]
    assert json.loads(state.tobytes())["dtype"] == "bfloat16"


def test_contents_count_tensors_by_type(tmp_path: Path) -> None:
    weights = {
        "w": onnxquant.encode(_normal(4, 256), "q4_0"),
        "v": onnxquant.encode(_normal(2, 256), "q4_0"),
        "b": _normal(4),
    }
    interchange.save(tmp_path / "a.gguf", weights, metadata={"t": ["a"] * 100})
    contents = interchange.contents(tmp_path / "a.gguf")
    assert [(t.type, t.tensors, t.elements, t.nbytes, t.bits_per_weight) for t in contents.types] == [
        ("q4_0", 2, 1536, 864, 4.5), ("float32", 1, 4, 16, 32.0),
    ]  # fmt: skip
    assert contents.nbytes == (tmp_path / "a.gguf").stat().st_size
    assert contents.metadata == {"t": ["a"] * 8 + ["... 100 entries"]}


@pytest.mark.parametrize("form", ["q4_0", "q4_k", "i2_s", "int4"])
def test_kernels_and_stacks_go_through_axqt(tmp_path: Path, form: str) -> None:
    """Blocks run along all inputs of an output channel, and not along the last axis."""
    kernel, stack = _normal(8, 32, 8, 4), _normal(2, 4, 256)
    weights = {"kernel": onnxquant.encode(kernel, form), "stack": onnxquant.encode(stack, form, contracted=1)}
    interchange.save(tmp_path / "a.axqt", weights)
    interchange.convert(tmp_path / "a.axqt", tmp_path / "b.axqt")
    checkpoint = interchange.open_checkpoint(tmp_path / "b.axqt")
    _each(
        weights, lambda name: np.testing.assert_array_equal(checkpoint[name].array(), onnxquant.decode(weights[name]))
    )
    assert checkpoint["kernel"].matrix_shape == (8, 1024)


def test_what_a_file_says_of_its_version_goes_before_what_lies_beside(tmp_path: Path) -> None:
    weight = onnxquant.encode(_normal(32, 64), "int4", symmetric=False)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    interchange.save(tmp_path / "a.safetensors", {"l.weight": weight})
    values = interchange.open_checkpoint(tmp_path / "a.safetensors")["l.weight"].array()
    np.testing.assert_array_equal(values, onnxquant.decode(weight))


@pytest.mark.parametrize("container", ["gguf", "safetensors", "axqt"])
def test_numbers_of_the_other_byte_order_are_turned_round(tmp_path: Path, container: str) -> None:
    interchange.save(tmp_path / f"a.{container}", {"w": _normal(3, 4).astype(">f4")})
    np.testing.assert_array_equal(interchange.open_checkpoint(tmp_path / f"a.{container}")["w"].array(), _normal(3, 4))


def test_a_vocabulary_of_a_quarter_of_a_million_words_goes_through_json(tmp_path: Path) -> None:
    words = [f"<word{i}>" for i in range(250_000)]
    interchange.save(tmp_path / "a.gguf", {"w": _normal(1024, 1024)}, metadata={"tokens": words})
    interchange.convert(tmp_path / "a.gguf", tmp_path / "b.safetensors")
    interchange.convert(tmp_path / "b.safetensors", tmp_path / "c.axqt")
    assert interchange.open_checkpoint(tmp_path / "c.axqt").metadata["tokens"] == words


def test_metadata_keep_their_types_through_safetensors(tmp_path: Path) -> None:
    path = _gguf(tmp_path / "m.gguf")
    checkpoint = interchange.open_checkpoint(path)
    interchange.convert(path, tmp_path / "a.safetensors", leave_out=True)
    interchange.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    again = interchange.open_checkpoint(tmp_path / "b.gguf").metadata
    assert {key: again[key] for key in checkpoint.metadata} == dict(checkpoint.metadata)


def test_arrays_that_merely_have_a_schemes_name_stay_plain(tmp_path: Path) -> None:
    values = {"fooSCB": _normal(3), "b.SCB": _normal(3), "a.weight_packed": np.zeros((4, 4), np.int32)}
    interchange.save(tmp_path / "a.safetensors", values)
    checkpoint = interchange.open_checkpoint(tmp_path / "a.safetensors")
    _each(values, lambda name: np.testing.assert_array_equal(checkpoint[name].array(), values[name]))


def test_bytes_of_another_tool_are_no_trits(tmp_path: Path) -> None:
    arrays = {"l.weight": np.full((8, 16), 255, np.uint8), "l.weight_scale": np.array([0.5], np.float32)}
    path = _safetensors(tmp_path / "m.safetensors", arrays, {"quant_method": "fbgemm_fp8"})
    np.testing.assert_array_equal(interchange.open_checkpoint(path)["l.weight"].array(), arrays["l.weight"])


@pytest.mark.parametrize("nested", [False, True])
def test_blocks_of_bitsandbytes_cross_rows_and_the_last_may_be_short(tmp_path: Path, nested: bool) -> None:
    weight = _normal(33, 77)
    save_file({"w.weight": weight}, tmp_path / "w.safetensors")
    interchange.quantize(tmp_path / "w.safetensors", tmp_path / "q.safetensors", "nf4", double_quant=nested)
    stored = load_file(tmp_path / "q.safetensors")
    state = json.loads(stored["w.weight.quant_state.bitsandbytes__nf4"].tobytes())
    packed, absmax = stored["w.weight"][:, 0], stored["w.weight.absmax"]
    assert (state["shape"], len(packed), len(absmax)) == ([33, 77], 1271, 40)
    if nested:
        scales = stored["w.weight.nested_quant_map"][absmax] * stored["w.weight.nested_absmax"][0]
        absmax = (scales + np.float32(state["nested_offset"])).astype(np.float32)
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: weight.size]
    values = stored["w.weight.quant_map"][codes] * np.repeat(absmax, 64)[: weight.size]
    interchange.convert(tmp_path / "q.safetensors", tmp_path / "a.axqt")
    interchange.convert(tmp_path / "a.axqt", tmp_path / "again.safetensors")
    for name in ("q.safetensors", "a.axqt", "again.safetensors"):
        tensor = interchange.open_checkpoint(tmp_path / name)["w.weight"]
        np.testing.assert_allclose(tensor.array(), values.reshape(33, 77), rtol=1e-6)
    assert np.abs(values.reshape(33, 77) - weight).max() < 0.6
    for name, array in load_file(tmp_path / "again.safetensors").items():
        np.testing.assert_array_equal(array, stored[name])


@pytest.mark.parametrize(
    "change",
    [
        {"nested_offset": "x"}, {"nested_offset": 1e300}, {"nested_blocksize": 0}, {"nested_blocksize": 128},
        {"blocksize": 64.0}, {"blocksize": 63}, {"quant_type": "fp4"}, {"shape": [4, 96]}, {"shape": [2, 1 << 40]},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_of_bitsandbytes_that_contradicts_its_arrays_is_refused(tmp_path: Path, change: dict) -> None:
    interchange.save(
        tmp_path / "w.safetensors", {"w.weight": onnxquant.encode(_normal(300, 64), "nf4", double_quant=True)}
    )
    stored = load_file(tmp_path / "w.safetensors")
    key = "w.weight.quant_state.bitsandbytes__nf4"
    stored[key] = np.frombuffer(json.dumps(json.loads(stored[key].tobytes()) | change).encode(), np.uint8)
    save_file(stored, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.weight"):
        interchange.open_checkpoint(tmp_path / "w.safetensors")["w.weight"].load()
