"""Tensors of bitsandbytes without bitsandbytes: bytes that it wrote once, and ways back (its own: tests/golden)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxquant import (
    Int8State,
    OnnxQuantError,
    QuantState,
    WeightError,
    decode,
    encode,
    from_bitsandbytes,
    to_bitsandbytes,
)


def weight() -> NDArray[np.float32]:
    """[33, 77]: blocks that cross rows, a short last one of odd length, zeros, a value near zero."""
    i = np.arange(33 * 77)
    values = (((37 * i + 11) % 64 - 31) / 32 * (1 + i % 5)).astype(np.float32).reshape(33, 77)
    values[2, :40], values[5, 3] = 0, 1e-4
    return values


def digest(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


# Of bitsandbytes 0.50.2 on torch 2.13.0, CPU.
WRITTEN = [
    ("nf4", {}, "ce1bf572c52acb24"),
    ("nf4", {"double_quant": True}, "aadfa05340c76e80"),
    ("fp4", {}, "aaaf8d2b97ab2160"),
    ("fp4", {"double_quant": True}, "3f2a179db3fbaab6"),
    ("dynamic8", {"block_size": 64}, "fd1954e5af40fb6c"),
]


@pytest.mark.parametrize(("name", "parameters", "written"), WRITTEN)
def test_a_float_array_becomes_the_bytes_of_the_cpu_build(name: str, parameters: dict[str, Any], written: str) -> None:
    tensor = to_bitsandbytes(weight(), name, **parameters)
    state: Any = tensor.state
    nested = [state.state2.absmax, np.float32(state.offset)] if state.nested else []
    assert digest(tensor.data, state.absmax, *nested) == written
    encoded = from_bitsandbytes(tensor.data, state)
    assert np.abs(decode(encoded) - weight()).max() < 1.2
    again = to_bitsandbytes(encoded)
    assert digest(again.data, again.state.absmax, *nested) == written  # type: ignore[union-attr]
    entries = {"prefix.weight." + k: v for k, v in state.as_dict().items()}
    np.testing.assert_array_equal(decode(from_bitsandbytes(tensor.data, entries)), decode(encoded))


def test_a_float_matrix_becomes_the_int8_matrix_of_the_cpu_build() -> None:
    tensor = to_bitsandbytes(weight(), "llm_int8", threshold=4.5)
    state: Any = tensor.state
    assert digest(tensor.data, state.scb, state.outlier_columns) == "d3cb761f385b8e10"
    encoded = from_bitsandbytes(tensor.data, state)
    np.testing.assert_array_equal(
        decode(encoded)[:, state.outlier_columns], weight()[:, state.outlier_columns].astype(np.float16)
    )
    again: Any = to_bitsandbytes(encoded)
    for ours, theirs in zip(vars(again.state).values(), vars(state).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["nf4", "fp4", "dynamic8", "llm_int8"])
@pytest.mark.parametrize("shape", [(16, 128), (8, 4, 4, 4)])
def test_encoded_weights_keep_their_codes(name: str, shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(3).standard_normal(shape, np.float32)
    w = w.reshape(16, -1)[:, :128] if name == "llm_int8" else w
    for parameters in ([{}, {"double_quant": True}] if name in ("nf4", "fp4") else [{}]):
        encoded = encode(w, name, **(parameters | ({"threshold": 2.5} if name == "llm_int8" else {})))
        tensor = to_bitsandbytes(encoded)
        back = from_bitsandbytes(tensor.data, tensor.state)
        assert (back.rows, back.cols, back.shape) == (encoded.rows, encoded.cols, encoded.shape)
        for plane, values in encoded.planes.items():
            np.testing.assert_array_equal(back.planes[plane], values)


def test_packed_entries_of_a_checkpoint_are_read() -> None:
    tensor = to_bitsandbytes(weight(), "nf4", double_quant=True)
    assert isinstance(tensor.state, QuantState)
    entries = tensor.state.as_dict()
    plain = {k: v for k, v in entries.items() if not isinstance(v, np.ndarray)}
    text = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    packed = {k: v for k, v in entries.items() if k not in plain} | {"quant_state.bitsandbytes__nf4": text}
    np.testing.assert_array_equal(
        decode(from_bitsandbytes(tensor.data, packed)), decode(from_bitsandbytes(tensor.data, tensor.state))
    )


def test_states_that_do_not_fit_are_refused() -> None:
    tensor = to_bitsandbytes(weight(), "nf4")
    assert isinstance(tensor.state, QuantState)
    entries = tensor.state.as_dict()
    for change, says in [
        ({"absmax": entries["absmax"][:-1]}, r"1271 bytes and 39 scales, expected 1271 and 40 for shape \[33, 77\]"),
        ({"shape": (33, 76)}, "expected 1254 and 40"),
        ({"quant_type": "int4"}, "quant_type 'int4', expected nf4 or fp4"),
        ({"quant_type": "fp4"}, "the values of the codes are not those of fp4"),
        ({"blocksize": 48}, "block_size 48: expected a power of two"),
        ({"shape": 3}, "no state of bitsandbytes: TypeError"),
    ]:
        with pytest.raises(OnnxQuantError, match=says):
            from_bitsandbytes(tensor.data, entries | change)
    with pytest.raises(WeightError, match="no state of bitsandbytes: KeyError: 'quant_map'"):
        from_bitsandbytes(tensor.data, {k: v for k, v in entries.items() if k != "quant_map"})
    codes = np.zeros((2, 4), np.int8)
    with pytest.raises(WeightError, match="columns of outliers"):
        from_bitsandbytes(codes, Int8State(np.ones(2, np.float32), np.array([4]), np.zeros((2, 1), np.float16)))
    with pytest.raises(WeightError, match="8 bytes and 3 scales"):
        from_bitsandbytes(codes, np.ones(3, np.float32))


def test_what_bitsandbytes_does_not_have_is_refused() -> None:
    w = np.ones((4, 64), np.float32)
    for source, arguments, says in [
        (w, {}, "a float array needs a format"),
        (w, {"format": "int4"}, "rounds nf4, fp4, dynamic8 and llm_int8 to nearest alone"),
        (w, {"format": "nf4", "stochastic": 1}, "to nearest alone"),
        (w, {"format": "llm_int8", "quantile": 0.9}, "expected a threshold of 0 or more alone"),
        (w * np.nan, {"format": "nf4"}, "holds nan"),
        (w * 1e6, {"format": "llm_int8"}, "beyond float16"),
        (w[0], {"format": "llm_int8"}, "expected a matrix"),
        (w[:0], {"format": "nf4"}, "expected values"),
        (encode(w, "int4"), {}, "format int4: bitsandbytes has"),
        (encode(w, "nf4", permuted=True), {}, "columns are stored in another order"),
        (encode(w, "nf4"), {"format": "nf4"}, "have no effect on a weight that is encoded already"),
    ]:
        with pytest.raises(OnnxQuantError, match=says):
            to_bitsandbytes(source, **arguments)  # type: ignore[arg-type]
