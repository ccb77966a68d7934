"""compressed-tensors, "pack-quantized": ``weight_packed``, ``weight_scale``, ``weight_shape`` and others.

``weight_zero_point`` is there where codes are asymmetric, ``weight_g_idx`` where columns are grouped in another order.

weight_packed int32 [out, ceil(in * bits / 32)], the first code in the lowest bits; codes of 3, 5 and 6 bits cross words. A
code is the signed value plus 2^(bits - 1). weight_scale [out, groups] in the model's float type. weight_zero_point int32
[ceil(out * bits / 32), groups], packed down the outputs. Source: compressed-tensors, ``pack_quantized``.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxquant.formats.base import Encoded
from onnxquant.interchange.schemes.base import Arrays, Groups, Scheme, expect, expect_words, transposed, words_to_codes
from onnxquant.interchange.tensor import Tensor
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array

_END = ".weight_packed"
# Bits of a code, the commonest first: short rows may have as many words of two widths.
_BITS = (4, 8, 2, 3, 6, 5)
_KEYS = ("packed", "scale", "shape", "zero_point", "g_idx")


class CompressedTensors(Scheme):
    """Packed integers of compressed-tensors."""

    name = "compressed-tensors"

    @classmethod
    def read(cls, arrays: Arrays, config: JsonObject) -> list[Tensor]:
        """Weights that have a ``weight_packed`` and a ``weight_scale`` or ``weight_shape``."""
        stems = [name.removesuffix(_END) for name in arrays if name.endswith(_END)]
        return [
            _tensor(stem, arrays)
            for stem in stems
            if any(f"{stem}.weight_{key}" in arrays for key in ("scale", "shape"))
        ]


def _tensor(stem: str, arrays: Arrays) -> Tensor:
    parts = {key: arrays[f"{stem}.weight_{key}"] for key in _KEYS if f"{stem}.weight_{key}" in arrays}
    expect("scale" in parts and "shape" in parts, stem, "has weight_packed, and no weight_scale or weight_shape")
    words, sizes, scales = parts["packed"], parts["shape"], parts["scale"]
    expect_words(words, f"{stem}.weight_packed")
    expect(sizes.size == 2 and sizes.dtype.kind in "iu", stem, f"weight_shape is {sizes.dtype} {list(sizes.shape)}")
    shape = tuple(int(n) for n in sizes.reshape(-1))
    fits = scales.size > 0 and shape[0] == len(words) == (len(scales) if scales.ndim else 0) and 0 < shape[1] < 1 << 31
    expect(fits, stem, f"weight_shape {list(shape)} does not fit its codes")
    bits = next((b for b in _BITS if -(-shape[1] * b // 32) == words.shape[1]), 0)
    expect(bits > 0, stem, f"{words.shape[1]} words for {shape[1]} columns; expected 2, 3, 4, 5, 6 or 8 bits")
    names = tuple(f"{stem}.weight_{key}" for key in parts)
    sides = _sides(stem, parts, (shape[0], shape[1]), bits)
    return Tensor(f"{stem}.weight", shape, sides.form, partial(_load, sides, words), names=names)


def _sides(stem: str, parts: dict[str, Array], shape: tuple[int, int], bits: int) -> Groups:
    rows, cols = shape
    scales = parts["scale"].reshape(rows, -1)
    zero = np.full(scales.shape, 1 << (bits - 1), np.uint8)
    if "zero_point" in parts:
        words = parts["zero_point"]
        expect_words(words, f"{stem}.weight_zero_point")
        fits = words.shape == (-(-rows * bits // 32), scales.shape[1])
        expect(fits, stem, f"weight_zero_point has the shape {list(words.shape)}")
        zero = transposed(words_to_codes(transposed(words), bits, rows))
    group_of = parts.get("g_idx")
    if group_of is not None and (group_of == -1).any():  # written where no order was computed
        group_of = None
    has_lowest = bits == 8 and not parts["packed"].view(np.uint8).all()
    return Groups(f"{stem}.weight", scales, zero, bits, cols, group_of, has_lowest)


def _load(sides: Groups, words: Array) -> Encoded:
    return sides.encoded(words_to_codes(words, sides.bits, sides.cols))
