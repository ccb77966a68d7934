"""bitsandbytes: NF4 and FP4 as a weight with a state, 8 bits as a weight with an ``SCB``.

4 bits: ``weight``, ``weight.absmax``, ``weight.quant_map`` and ``weight.quant_state.bitsandbytes__nf4``; where scales are
quantized too, ``weight.nested_absmax`` and ``weight.nested_quant_map``. The state is JSON in an array of bytes: quant_type,
blocksize, dtype, shape, and nested_blocksize, nested_dtype and nested_offset. Blocks run over the weight as it lies in
memory, across its rows; the last may be short. ``formats.bitsandbytes.state`` knows what arrays and states mean. Source:
bitsandbytes, ``functional.QuantState`` and ``nn.modules``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from onnxquant.errors import CheckpointError, RecipeError, WeightError
from onnxquant.formats.base import Encoded
from onnxquant.formats.bitsandbytes.llm_int8 import LlmInt8
from onnxquant.formats.bitsandbytes.nf4_fp4 import NESTED_BLOCK, NestedTable
from onnxquant.formats.bitsandbytes.state import Int8State, QuantState, from_bitsandbytes, to_bitsandbytes
from onnxquant.interchange.cursor import parsed_json
from onnxquant.interchange.schemes.base import Arrays, ArrayType, Scheme, expect
from onnxquant.interchange.tensor import Tensor, original_dtype
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array

_STATE = ".quant_state.bitsandbytes__"
# Arrays beside the codes of a weight of 4 bits.
_SIDES = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
# Entries of a state of 4 bits.
_ENTRIES = ("quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_offset")
# Modules of language models that give the logits.
_HEADS = ("lm_head", "embed_out")
# Most characters that double quantization adds to a state.
_NESTED_STATE = 100


class BitsAndBytes(Scheme):
    """NF4, FP4 and 8-bit rows."""

    name = "bitsandbytes"

    @classmethod
    def read(cls, arrays: Arrays, config: JsonObject) -> list[Tensor]:
        """Weights that have a state, and int8 weights that have an ``SCB``."""
        four = [_four_bits(name, arrays) for name in arrays if _STATE in name]
        eight = [_eight_bits(name, arrays) for name in arrays if _is_of_rows(name, arrays)]
        return [*four, *eight]

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """A reason unless the tensor is NF4, FP4 or of 8-bit rows without outliers."""
        form = tensor.kind
        if not isinstance(form, NestedTable | LlmInt8):
            return f"bitsandbytes stores nf4, fp4 and llm_int8, and no {tensor.label}"
        if form.permuted:
            return "its columns are stored in another order"
        if isinstance(form, LlmInt8) and (
            form.outliers or len(tensor.shape) != 2 or not tensor.name.endswith(".weight")
        ):
            return "bitsandbytes stores 8-bit matrices named .weight, and finds outliers when it runs"
        return None

    @classmethod
    def types(cls, tensor: Tensor) -> dict[str, ArrayType]:
        """Types and shapes of the arrays of a weight."""
        form, name = tensor.kind, tensor.name
        byte, single = np.dtype(np.uint8), np.dtype(np.float32)
        if isinstance(form, LlmInt8):
            stem = name.removesuffix("weight")
            rows = (single, (tensor.shape[0],))
            return {name: (np.dtype(np.int8), tensor.shape), f"{stem}SCB": rows, f"{stem}weight_format": (byte, ())}
        table = cast(NestedTable, form)
        scales = -(-tensor.size // table.block_size)
        types: dict[str, ArrayType] = {
            name: (byte, (-(-tensor.size // 2), 1)),
            f"{name}.absmax": (byte if table.double_quant else single, (scales,)),
            f"{name}.quant_map": (single, (16,)),
        }
        if table.double_quant:
            types[f"{name}.nested_absmax"] = (single, (-(-scales // NESTED_BLOCK),))
            types[f"{name}.nested_quant_map"] = (single, (256,))
        types[f"{name}{_STATE}{table.name}"] = (byte, (len(_state_of(tensor, table, 0.0)),))
        return types

    @classmethod
    def arrays(cls, tensor: Tensor) -> dict[str, Array]:
        """The arrays of a weight."""
        encoded = tensor.encoded()
        form, name = encoded.format, tensor.name
        if isinstance(form, LlmInt8):
            if encoded.planes["outlier_columns"].size:
                raise WeightError(f"{name}: holds columns of outliers, which bitsandbytes does not store")
            stem, weight = name.removesuffix("weight"), to_bitsandbytes(encoded)
            scb = cast(Int8State, weight.state).scb
            return {name: weight.data, f"{stem}SCB": scb, f"{stem}weight_format": np.array(0, np.uint8)}
        return _four_bit_arrays(tensor, encoded)

    @classmethod
    def config(cls, weights: Sequence[Tensor], plain: Sequence[str]) -> JsonObject:
        """The kind that most weights are; modules of plain numbers are named, or transformers would quantize them.

        So are modules that give the logits by the table of embeddings: files do not have their weights.
        """
        kind, _ = Counter(cast(NestedTable | LlmInt8, weight.kind) for weight in weights).most_common(1)[0]
        names = {*plain, *(weight.name.removesuffix(".weight") for weight in weights)}
        tied = [head for head in _HEADS if not any(name.endswith(head) for name in names)]
        config: JsonObject = {"quant_method": cls.name, "llm_int8_skip_modules": [*plain, *tied]}
        if isinstance(kind, LlmInt8):
            return config | {"load_in_8bit": True, "llm_int8_threshold": 6.0}
        return config | {
            "load_in_4bit": True, "bnb_4bit_quant_type": kind.name, "bnb_4bit_use_double_quant": kind.double_quant,
            "bnb_4bit_quant_storage": "uint8", "bnb_4bit_compute_dtype": weights[0].original_dtype or "float32",
        }  # fmt: skip


def _four_bit_arrays(tensor: Tensor, encoded: Encoded) -> dict[str, Array]:
    name, weight = tensor.name, to_bitsandbytes(replace(encoded, shape=tensor.shape))
    entries = cast(QuantState, weight.state).as_dict()
    sides = {f"{name}.{key}": value for key, value in entries.items() if isinstance(value, np.ndarray)}
    offset = entries.get("nested_offset", 0.0)
    state = _state_of(tensor, cast(NestedTable, encoded.format), offset)
    return {name: weight.data, **sides, f"{name}{_STATE}{encoded.format.name}": np.frombuffer(state, np.uint8)}


def _state_of(tensor: Tensor, form: NestedTable, offset: float) -> bytes:
    """The state of a weight, filled up with blanks, so that its length does not depend on the offset."""
    state: JsonObject = {
        "quant_type": form.name,
        "blocksize": form.block_size,
        "dtype": tensor.original_dtype or "float32",
        "shape": list(tensor.shape),
    }
    length = len(json.dumps(state))
    if form.double_quant:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
        length += _NESTED_STATE
    return json.dumps(state).ljust(length).encode()


def _four_bits(key: str, arrays: Arrays) -> Tensor:
    name, _, kind = key.partition(_STATE)
    entries = _state(key, arrays[key])
    shape = entries.get("shape")
    expect(kind in ("nf4", "fp4") and entries.get("quant_type") == kind, name, f"quant_state says {str(entries)[:120]}")
    is_shape = (
        isinstance(shape, list) and all(isinstance(n, int) and 0 < n < 1 << 31 for n in shape) and 0 < len(shape) < 9
    )
    is_block = type(entries.get("blocksize")) is int
    expect(is_shape and is_block, name, f"quant_state has shape {str(shape)[:60]}, or no whole number as its blocksize")
    parts = [side for side in _SIDES if f"{name}.{side}" in arrays]
    for side in ("absmax", "quant_map"):
        expect(name in arrays and side in parts, name, f"has a quant_state, and no {name}.{side} or no data")
    try:
        said = {key: entries[key] for key in _ENTRIES if key in entries}
        state = QuantState.of({"dtype": "float32", **said, **{side: arrays[f"{name}.{side}"] for side in parts}})
        form = state.format
    except (RecipeError, WeightError) as error:
        raise CheckpointError(f"{name}: {error}") from None
    names = (name, *(f"{name}.{side}" for side in parts), key)
    dtype = original_dtype(entries.get("dtype"))
    load = partial(_load, name, arrays[name].reshape(-1).view(np.uint8), state)
    return Tensor(name, tuple(cast(list[int], shape)), form, load, names=names, original_dtype=dtype)


def _state(key: str, raw: Array) -> JsonObject:
    expect(raw.dtype == np.uint8, key, f"is {raw.dtype}; expected uint8")
    return parsed_json(key, raw.tobytes(), 0)


def _load(name: str, data: Array, state: QuantState | Int8State) -> Encoded:
    try:
        return from_bitsandbytes(data, state)
    except WeightError as error:
        raise CheckpointError(f"{name}: {error}") from None


def _is_of_rows(key: str, arrays: Arrays) -> bool:
    """Whether an array has the largest magnitudes of the rows of an int8 weight."""
    if key != "SCB" and not key.endswith(".SCB"):
        return False
    weight = arrays.get(f"{key.removesuffix('SCB')}weight")
    return weight is not None and weight.dtype == np.int8


def _eight_bits(key: str, arrays: Arrays) -> Tensor:
    stem = key.removesuffix("SCB")
    name = f"{stem}weight"
    is_matrix = name in arrays and arrays[name].dtype == np.int8 and arrays[name].ndim == 2
    expect(is_matrix, key, f"there is no int8 matrix {name}")
    form_key = f"{stem}weight_format"
    layout = arrays[form_key].reshape(-1) if form_key in arrays else np.zeros(0, np.uint8)
    expect(not layout.any(), name, f"weight_format is {layout[:9].tolist()}; expected 0, rows in their order")
    parts = tuple(part for part in (name, key, form_key) if part in arrays)
    load = partial(_load, name, arrays[name], Int8State(arrays[key].astype(np.float32)))
    return Tensor(name, arrays[name].shape, LlmInt8(outliers=0), load, names=parts)
