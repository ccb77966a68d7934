"""bitsandbytes: NF4 and FP4 as a weight with a state, 8 bits as a weight with an ``SCB``.

4 bits: ``weight``, ``weight.absmax``, ``weight.quant_map`` and ``weight.quant_state.bitsandbytes__nf4``; where scales are
quantized too, ``weight.nested_absmax`` and ``weight.nested_quant_map``. The state is JSON in an array of bytes: quant_type,
blocksize, dtype, shape, and nested_blocksize, nested_dtype and nested_offset. Blocks run over the weight as it lies in
memory. Source: bitsandbytes, ``functional.QuantState`` and ``nn.modules``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import cast

import numpy as np

from onnxquant.errors import CheckpointError, RecipeError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.formats.bitsandbytes.dynamic8 import signed_map
from onnxquant.formats.bitsandbytes.llm_int8 import LlmInt8
from onnxquant.formats.bitsandbytes.nf4_fp4 import NESTED_BLOCK, NestedTable
from onnxquant.interchange.cursor import parsed_json
from onnxquant.interchange.schemes.base import Arrays, ArrayType, Scheme, expect
from onnxquant.interchange.tensor import Tensor, original_dtype
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array

_STATE = ".quant_state.bitsandbytes__"
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
        if isinstance(form, NestedTable) and tensor.size % form.block_size:
            return f"its {tensor.size} weights are no whole number of blocks of {form.block_size}"
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
        scales = tensor.size // table.block_size
        types: dict[str, ArrayType] = {
            name: (byte, (tensor.size // 2, 1)),
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
            stem = name.removesuffix("weight")
            return {
                name: form.to_blocks(encoded).reshape(tensor.shape),
                f"{stem}SCB": form.absmax(encoded),
                f"{stem}weight_format": np.array(0, np.uint8),
            }
        return _four_bit_arrays(tensor, cast(NestedTable, form), encoded)

    @classmethod
    def config(cls, weights: Sequence[Tensor], plain: Sequence[str]) -> JsonObject:
        """The kind that most weights are; modules of plain numbers are named, or transformers would quantize them."""
        kind, _ = Counter(cast(NestedTable | LlmInt8, weight.kind) for weight in weights).most_common(1)[0]
        config: JsonObject = {"quant_method": cls.name, "llm_int8_skip_modules": list(plain)}
        if isinstance(kind, LlmInt8):
            return config | {"load_in_8bit": True, "llm_int8_threshold": 6.0}
        return config | {
            "load_in_4bit": True, "bnb_4bit_quant_type": kind.name, "bnb_4bit_use_double_quant": kind.double_quant,
            "bnb_4bit_quant_storage": "uint8", "bnb_4bit_compute_dtype": weights[0].original_dtype or "float32",
        }  # fmt: skip


def _four_bit_arrays(tensor: Tensor, form: NestedTable, encoded: Encoded) -> dict[str, Array]:
    name = tensor.name
    offset = float(encoded.planes["nested_offset"][0]) if form.double_quant else 0.0
    arrays: dict[str, Array] = {
        name: form.to_blocks(encoded).reshape(-1, 1),
        f"{name}.absmax": encoded.planes["scales"].reshape(-1),
        f"{name}.quant_map": type(form).table(),
    }
    if form.double_quant:
        arrays[f"{name}.nested_absmax"] = encoded.planes["nested_scales"]
        arrays[f"{name}.nested_quant_map"] = signed_map()
    arrays[f"{name}{_STATE}{form.name}"] = np.frombuffer(_state_of(tensor, form, offset), np.uint8)
    return arrays


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
    state = _state(key, arrays[key])
    shape, block = state.get("shape"), state.get("blocksize")
    expect(kind in ("nf4", "fp4") and state.get("quant_type") == kind, name, f"quant_state says {str(state)[:120]}")
    is_shape = (
        isinstance(shape, list) and all(isinstance(n, int) and 0 < n < 1 << 31 for n in shape) and 0 < len(shape) < 9
    )
    expect(
        is_shape and isinstance(block, int),
        name,
        f"quant_state has shape {str(shape)[:60]}, block size {str(block)[:20]}",
    )
    for part in ("", ".absmax", ".quant_map"):
        expect(f"{name}{part}" in arrays, name, f"has a quant_state, and no {name}{part}")
    is_nested = f"{name}.nested_absmax" in arrays
    try:
        form = cast(NestedTable, format_named(kind, block_size=block, double_quant=is_nested))
    except RecipeError as error:
        raise CheckpointError(f"{name}: {error}") from None
    same = arrays[f"{name}.quant_map"].astype(np.float32)
    expect(np.array_equal(same, type(form).table()), name, f"quant_map is not {kind}'s")
    parts = [name, f"{name}.absmax", f"{name}.quant_map", key]
    if is_nested:
        parts += [f"{name}.nested_absmax", f"{name}.nested_quant_map"]
        expect(
            state.get("nested_blocksize") == NESTED_BLOCK, name, f"nested_blocksize is {state.get('nested_blocksize')}"
        )
        known = arrays.get(f"{name}.nested_quant_map")
        is_known = known is not None and np.array_equal(known.astype(np.float32), signed_map())
        expect(is_known, name, "nested_quant_map is another")
    sizes = tuple(cast(list[int], shape))
    load = partial(_load, name, arrays, form, sizes, state)
    dtype = original_dtype(state.get("dtype"))
    return Tensor(name, sizes, form, load, names=tuple(parts), original_dtype=dtype)


def _state(key: str, raw: Array) -> JsonObject:
    expect(raw.dtype == np.uint8, key, f"is {raw.dtype}; expected uint8")
    return parsed_json(key, raw.tobytes(), 0)


def _load(name: str, arrays: Arrays, form: NestedTable, shape: tuple[int, ...], state: JsonObject) -> Encoded:
    size, block = prod(shape), form.block_size
    rows, cols = prod(shape[:-1]), shape[-1]
    if cols % block:  # blocks cross rows: each is a row of a matrix of its own
        expect(size % block == 0, name, f"{size} weights are no whole number of blocks of {block}")
        rows, cols = size // block, block
    scales = arrays[f"{name}.absmax"].reshape(-1)
    try:
        encoded = form.from_blocks(arrays[name], rows, cols, np.zeros(len(scales)) if form.double_quant else scales)
    except WeightError as error:
        raise CheckpointError(f"{name}: {error}") from None
    if not form.double_quant:
        return Encoded(encoded.format, rows, cols, encoded.planes, shape)
    nested = arrays[f"{name}.nested_absmax"].reshape(-1)
    offset = state.get("nested_offset")
    is_number = isinstance(offset, int | float) and abs(offset) < float(np.finfo(np.float32).max)
    expect(is_number, name, f"nested_offset is {str(offset)[:20]}; expected a number")
    expect(
        scales.dtype == np.uint8 and len(nested) == -(-len(scales) // NESTED_BLOCK), name, "nested scales do not fit"
    )
    planes = {
        "codes": encoded.planes["codes"],
        "scales": scales.reshape(encoded.planes["scales"].shape),
        "nested_scales": nested.astype(np.float32),
        "nested_offset": np.array([offset], np.float32),
    }
    return Encoded(form, rows, cols, planes, shape)


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
    form = LlmInt8(outliers=0)
    return Tensor(
        name, arrays[name].shape, form, partial(_load_rows, name, form, arrays[name], arrays[key]), names=parts
    )


def _load_rows(name: str, form: LlmInt8, codes: Array, absmax: Array) -> Encoded:
    try:
        rows, cols = codes.shape
        return form.from_blocks(codes, rows, cols, absmax)
    except WeightError as error:
        raise CheckpointError(f"{name}: {error}") from None
