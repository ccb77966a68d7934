"""Types of tensors in GGUF files: the number, the format or type of numbers, and the bytes of each.

Source: ggml's ``ggml.h`` (numbers) and ``ggml-common.h`` (block structures).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from onnxquant.formats import registry
from onnxquant.formats.base import Format
from onnxquant.formats.ggml.blocks import Blocks

# Bytes behind the codes of a tensor of BitNet's: its scale, and 28 that mean nothing.
_I2_S_TAIL = 32


@dataclass(frozen=True)
class Opaque:
    """A type whose codes are moved, and not decoded.

    Attributes:
        name: name of the type.
    """

    name: str


Kind = Format | np.dtype[Any] | Opaque
"""What the numbers of a tensor are stored as."""


@dataclass(frozen=True)
class GgmlType:
    """A type of tensors in GGUF files.

    Attributes:
        number: number in the file.
        name: name in ggml.
        block: weights of a block, which a row is a whole number of.
        block_bytes: bytes of a block.
        kind: format or type of its numbers.
    """

    number: int
    name: str
    block: int
    block_bytes: int
    kind: Kind

    def nbytes(self, size: int) -> int:
        """Bytes of a tensor of so many weights."""
        return size // self.block * self.block_bytes + (_I2_S_TAIL if self.name == "I2_S" else 0)


def _types() -> list[GgmlType]:
    numbers: list[tuple[int, str, Any]] = [
        (0, "F32", np.float32), (1, "F16", np.float16), (30, "BF16", ml_dtypes.bfloat16), (28, "F64", np.float64),
        (24, "I8", np.int8), (25, "I16", np.int16), (26, "I32", np.int32), (27, "I64", np.int64),
    ]  # fmt: skip
    plain = [GgmlType(n, name, 1, np.dtype(kind).itemsize, np.dtype(kind)) for n, name, kind in numbers]
    blocks = {
        2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
        15: "Q8_K", 20: "IQ4_NL", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    }  # fmt: skip
    known = registry()
    coded = [_coded(number, name, known[name.lower()]) for number, name in blocks.items() if name.lower() in known]
    i2_s = GgmlType(36, "I2_S", 128, 32, known["i2_s"]())
    opaque = [
        (9, "Q8_1", 32, 36), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136),
        (29, "IQ1_M", 256, 56), (40, "NVFP4", 64, 36), (41, "Q1_0", 128, 18),
    ]  # fmt: skip
    return [*plain, *coded, i2_s, *(GgmlType(n, name, b, size, Opaque(name)) for n, name, b, size in opaque)]


def _coded(number: int, name: str, form: type[Format]) -> GgmlType:
    if not issubclass(form, Blocks):
        raise TypeError(f"format {form.name} has no blocks")
    return GgmlType(number, name, form.block, form.block_bytes, form())


BY_NUMBER = {kind.number: kind for kind in _types()}
_BY_NAME = {kind.kind.name: kind for kind in BY_NUMBER.values()}


def type_named(kind: Opaque) -> GgmlType:
    """The type whose codes are moved, and not decoded."""
    return _BY_NAME[kind.name]


def type_of(kind: Kind) -> GgmlType | None:
    """The type of a format with its default parameters or of a type of numbers; None where GGUF has none."""
    known = _BY_NAME.get(kind.name)
    if known is None or (isinstance(kind, Format) and kind != known.kind):
        return None
    return known
