"""BitNet b1.58 as Hugging Face packs it: ``weight`` uint8 [out / 4, in] and ``weight_scale``, one number.

Bits 2i and 2i + 1 of row r are the code of output i * (out / 4) + r; code - 1 is the trit. The layer class
``autobitlinear`` multiplies with the scale, ``bitlinear`` divides by it. Source: transformers, ``integrations/bitnet.py``.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.formats.planes import Planes
from onnxquant.interchange.schemes.base import Arrays, Scheme, expect
from onnxquant.interchange.tensor import Tensor
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array

_END = ".weight_scale"


class BitNet(Scheme):
    """Packed ternary matrices."""

    name = "bitnet"

    @classmethod
    def read(cls, arrays: Arrays, config: JsonObject) -> list[Tensor]:
        """Weights of bytes that have one scale, unless config.json names another tool."""
        if config.get("quant_method", "bitnet") not in ("bitnet", "bitlinear"):
            return []
        multiplies = config.get("linear_class") == "autobitlinear"
        return [
            _tensor(stem, arrays, multiplies=multiplies)
            for name in arrays
            if name.endswith(_END) and arrays[name].size == 1
            for stem in [name.removesuffix("_scale")]
            if stem in arrays and arrays[stem].dtype == np.uint8 and arrays[stem].ndim == 2
        ]


def _tensor(name: str, arrays: Arrays, *, multiplies: bool) -> Tensor:
    packed = arrays[name]
    expect(packed.size > 0, name, "is empty")
    scale = np.float32(arrays[f"{name}_scale"].astype(np.float32).reshape(-1)[0])
    expect(bool(np.isfinite(scale) and scale > 0), name, f"weight_scale is {scale}; expected a number above 0")
    load = partial(_load, name, packed, scale if multiplies else np.float32(1) / scale)
    shape = (4 * packed.shape[0], packed.shape[1])
    return Tensor(name, shape, format_named("i2_s"), load, names=(name, f"{name}_scale"))


def _load(name: str, packed: Array, scale: np.float32) -> Encoded:
    codes = np.concatenate([packed >> np.uint8(2 * i) & np.uint8(3) for i in range(4)])
    expect(bool((codes < 3).all()), name, "holds the code 3, which has no meaning")
    planes: Planes = {"codes": codes + np.uint8(1), "scales": np.array([[scale]], np.float32)}
    rows, cols = codes.shape
    return Encoded(format_named("i2_s"), rows, cols, planes, (rows, cols))
