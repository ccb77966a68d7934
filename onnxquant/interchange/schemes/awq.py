"""AWQ (GEMM): ``qweight``, ``qzeros`` and ``scales``, packed along the outputs.

qweight int32 [in, out / 8] and qzeros int32 [groups, out / 8]: nibble i of a word is output 8 * word + order[i], with the
order 0, 2, 4, 6, 1, 3, 5, 7; scales float16 [groups, out]; value = (code - zero) * scale. Source: AutoAWQ.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.formats.base import Encoded
from onnxquant.interchange.schemes.base import Arrays, Groups, Scheme, expect_words, transposed, words_to_codes
from onnxquant.interchange.tensor import Tensor
from onnxquant.json_data import JsonObject
from onnxquant.numerics.arrays import Array, Bytes

_BITS, _PER_WORD = 4, 8
# Place of output i of eight within a word.
_PLACES = np.argsort([0, 2, 4, 6, 1, 3, 5, 7])


class Awq(Scheme):
    """AWQ's 4-bit matrices."""

    name = "awq"

    @classmethod
    def read(cls, arrays: Arrays, config: JsonObject) -> list[Tensor]:
        """Weights whose ``qweight`` has an eighth of the columns of their scales."""
        return [
            _tensor(stem, arrays)
            for name in arrays
            if name.endswith(".qweight")
            for stem in [name.removesuffix(".qweight")]
            if _is_awq(stem, arrays)
        ]


def _is_awq(stem: str, arrays: Arrays) -> bool:
    scales, words = arrays.get(f"{stem}.scales"), arrays[f"{stem}.qweight"]
    return scales is not None and words.ndim == scales.ndim == 2 and words.shape[1] * _PER_WORD == scales.shape[1]


def _tensor(stem: str, arrays: Arrays) -> Tensor:
    words, scales = arrays[f"{stem}.qweight"], arrays[f"{stem}.scales"]
    zeros = arrays.get(f"{stem}.qzeros")
    expect_words(words, f"{stem}.qweight")
    if zeros is None or zeros.shape != (len(scales), words.shape[1]):
        raise CheckpointError(f"{stem}: qzeros is missing or of another shape")
    expect_words(zeros, f"{stem}.qzeros")
    name = f"{stem}.weight"
    sides = Groups(name, scales.T, transposed(_codes(zeros)), _BITS, len(words))
    names = tuple(f"{stem}.{key}" for key in ("qweight", "qzeros", "scales"))
    return Tensor(name, (scales.shape[1], len(words)), sides.form, partial(_load, sides, words), names=names)


def _load(sides: Groups, words: Array) -> Encoded:
    return sides.encoded(transposed(_codes(words)))


def _codes(words: Array) -> Bytes:
    """Codes [n, out] of words [n, out / 8]."""
    stored = words_to_codes(words, _BITS, words.shape[1] * _PER_WORD)
    return stored.reshape(len(words), -1, _PER_WORD)[..., _PLACES].reshape(len(words), -1)
