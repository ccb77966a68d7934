"""GPTQ: ``qweight``, ``qzeros``, ``scales`` and, mostly, ``g_idx``, the group of each input channel.

Codes are packed along the inputs: qweight int32 [in * bits / 32, out], the first code in the lowest bits; qzeros int32
[groups, out * bits / 32]; scales float16 [groups, out]; value = (code - zero) * scale. Version 1 ("gptq") stores zero - 1,
version 2 ("gptq_v2") zero. Source: AutoGPTQ and GPTQModel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np

from onnxquant.errors import CheckpointError, WeightError
from onnxquant.formats.base import Encoded
from onnxquant.formats.granularity import PerBlock, PerRow
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.interchange.schemes.base import (
    Arrays,
    ArrayType,
    Groups,
    Scheme,
    codes_to_words,
    expect,
    expect_words,
    transposed,
    words_to_codes,
)
from onnxquant.interchange.tensor import Tensor
from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.numerics.arrays import Array, Bytes

_BITS = (2, 3, 4, 8)
_FIRST, _SECOND = "gptq", "gptq_v2"
# The module that gives the logits, which a configuration has an entry of its own for.
_HEAD = "lm_head"
# The list of layers in the name of a module: all before the first number.
_LAYERS = re.compile(r"^.*?\.(?=\d+\.)")


class Gptq(Scheme):
    """GPTQ of both versions; written as version 2."""

    name = "gptq"

    @classmethod
    def read(cls, arrays: Arrays, config: JsonObject) -> list[Tensor]:
        """Weights that have a ``qweight`` of as many columns as their scales."""
        return [
            _tensor(stem, arrays, config)
            for name in arrays
            if name.endswith(".qweight")
            for stem in [name.removesuffix(".qweight")]
            if _is_gptq(stem, arrays)
        ]

    @classmethod
    def why_not(cls, tensor: Tensor) -> str | None:
        """A reason unless the tensor is of integer codes of a matrix whose scales are float16."""
        form = tensor.kind
        if not isinstance(form, ScaledCodes) or form.bits not in _BITS or form.zero_type is ZeroPoint.FLOAT16:
            return f"GPTQ's arrays hold integers of 2, 3, 4 or 8 bits, and no {tensor.label}"
        if form.scale_dtype is not np.float16 or not isinstance(form.granularity, PerBlock | PerRow):
            return f"GPTQ's scales are float16, one for a group of a row; {tensor.label} has others"
        if len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
            return "GPTQ holds matrices whose names end in .weight"
        rows, cols = tensor.shape
        if rows * form.bits % 32 or cols * form.bits % 32:
            return f"shape {list(tensor.shape)}: rows and columns of {form.bits} bits must fill words of 32"
        return None

    @classmethod
    def types(cls, tensor: Tensor) -> dict[str, ArrayType]:
        """Types and shapes of the four arrays of a weight."""
        form, stem = cast(ScaledCodes, tensor.kind), tensor.name.removesuffix(".weight")
        rows, cols = tensor.shape
        groups = form.granularity.shape(rows, cols)[1]
        word, half = np.dtype(np.int32), np.dtype(np.float16)
        return {
            f"{stem}.g_idx": (word, (cols,)),
            f"{stem}.qweight": (word, (cols * form.bits // 32, rows)),
            f"{stem}.qzeros": (word, (groups, rows * form.bits // 32)),
            f"{stem}.scales": (half, (groups, rows)),
        }

    @classmethod
    def arrays(cls, tensor: Tensor) -> dict[str, Array]:
        """The four arrays of a weight."""
        encoded = tensor.encoded()
        form, stem = encoded.format, tensor.name.removesuffix(".weight")
        if not isinstance(form, ScaledCodes):
            raise WeightError(f"{tensor.name}: format {form.name} has no codes with scales")
        cols = encoded.cols
        scales = encoded.planes["scales"]
        zero = encoded.planes.get("zero_points")
        if zero is None:
            zero = np.full(scales.shape, form.offset, np.uint8)
        group_of = np.arange(cols, dtype=np.int32) // np.int32(form.granularity.columns(cols) or cols)
        codes = encoded.planes["codes"]
        if "permutation" in encoded.planes:
            order = encoded.planes["permutation"]
            codes, ordered = _in_original_order(codes, order), group_of
            group_of = np.empty_like(ordered)
            group_of[order] = ordered
        return {
            f"{stem}.g_idx": group_of,
            f"{stem}.qweight": transposed(codes_to_words(codes, form.bits)),
            f"{stem}.qzeros": codes_to_words(transposed(zero), form.bits),
            f"{stem}.scales": transposed(scales),
        }

    @classmethod
    def config(cls, weights: Sequence[Tensor], plain: Sequence[str]) -> JsonObject:
        """Bits and groups as the most of the weights have them; ``dynamic`` names other weights and the plain matrices.

        transformers does not read ``dynamic``: it has a list of all quantized modules where plain ones are among the layers.
        """
        kinds = {weight.name.removesuffix(".weight"): _kind_of(cast(ScaledCodes, weight.kind)) for weight in weights}
        (common, _), *_ = Counter(map(_items_of, kinds.values())).most_common(1)
        config = {"quant_method": _FIRST, "checkpoint_format": _SECOND, **dict(common), "dataset": None}
        dynamic: JsonObject = {f"+:{_exactly(name)}": kind for name, kind in kinds.items() if _items_of(kind) != common}
        dynamic |= {f"-:{_exactly(name)}": {} for name in plain}
        if dynamic:
            config["dynamic"] = dynamic
        if _HEAD in kinds:
            config[_HEAD] = True
        layers = {match[0] for name in kinds if (match := _LAYERS.match(name))}
        if any(name.startswith(tuple(layers)) for name in plain):
            config["modules_in_block_to_quantize"] = [list(kinds)]
        return config


def _kind_of(form: ScaledCodes) -> JsonObject:
    """The entries of a configuration on weights of a format."""
    return {
        "bits": form.bits,
        "group_size": form.granularity.size if isinstance(form.granularity, PerBlock) else -1,
        "desc_act": form.permuted,
        "sym": form.zero_type is ZeroPoint.NONE,
    }


def _items_of(kind: JsonObject) -> tuple[tuple[str, JsonValue], ...]:
    return tuple(kind.items())


def _exactly(name: str) -> str:
    """A pattern of one name."""
    return f"^{re.escape(name)}$"


def _in_original_order(codes: Array, order: Array) -> Array:
    original = np.empty_like(codes)
    original[:, order] = codes
    return original


def _is_gptq(stem: str, arrays: Arrays) -> bool:
    scales, words = arrays.get(f"{stem}.scales"), arrays[f"{stem}.qweight"]
    return scales is not None and words.ndim == scales.ndim == 2 and words.shape[1] == scales.shape[1]


def _tensor(stem: str, arrays: Arrays, config: JsonObject) -> Tensor:
    keys = [key for key in ("qweight", "qzeros", "scales", "g_idx") if f"{stem}.{key}" in arrays]
    words, scales = arrays[f"{stem}.qweight"], arrays[f"{stem}.scales"]
    groups, rows = scales.shape
    expect_words(words, f"{stem}.qweight")
    expect("qzeros" in keys, stem, "has qweight and scales, and no qzeros")
    zeros = arrays[f"{stem}.qzeros"]
    expect_words(zeros, f"{stem}.qzeros")
    bits = zeros.shape[-1] * 32 // rows if rows else 0
    expect(
        bits in _BITS and zeros.shape == (groups, rows * bits // 32), stem, f"qzeros has the shape {list(zeros.shape)}"
    )
    cols = len(words) * 32 // bits
    zero = words_to_codes(zeros, bits, rows)
    if _version(stem, zero, bits, config) == _FIRST:
        zero = (zero + np.uint8(1)) & np.uint8((1 << bits) - 1)
    has_lowest = bits == 8 and not words.view(np.uint8).all()
    name = f"{stem}.weight"
    sides = Groups(name, scales.T, transposed(zero), bits, cols, arrays.get(f"{stem}.g_idx"), has_lowest)
    names = tuple(f"{stem}.{key}" for key in keys)
    return Tensor(name, (rows, cols), sides.form, partial(_load, sides, words), names=names)


def _load(sides: Groups, words: Array) -> Encoded:
    return sides.encoded(words_to_codes(transposed(words), sides.bits, sides.cols))


def _version(stem: str, stored: Bytes, bits: int, config: JsonObject) -> str:
    """The version that the configuration says; without one, symmetric zero points tell it."""
    is_gptq = config.get("quant_method") == "gptq"
    said = config.get("checkpoint_format") or (config.get("format") if is_gptq else None)
    if said in (_FIRST, _SECOND):
        return str(said)
    if said is None and is_gptq:
        return _FIRST  # its tools did not say so before there were two
    if said is not None:
        raise CheckpointError(
            f"{stem}: quantization_config says that its format is {str(said)[:60]!r}; expected {_FIRST!r} or {_SECOND!r}, "
            "the packings that all tools read: save the model in one of them"
        )
    for version, middle in ((_FIRST, (1 << (bits - 1)) - 1), (_SECOND, 1 << (bits - 1))):
        if (stored == middle).all():
            return version
    raise CheckpointError(
        f"{stem}: nothing says which version of GPTQ this is; expected config.json beside it, with quantization_config"
    )
