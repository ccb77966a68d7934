"""i2_s: BitNet's ternary weights, two bits each, one float32 scale for the tensor.

scale = mean |w| and trit = clip(round-half-even(w / scale), -1, 1) (absmean, Ma et al. 2024, "The Era of 1-bit LLMs").
A weight that is ternary already (at most one magnitude besides zero) is recognised and kept exactly. A plane's code is
trit + 2, so that zero has the code every 2-bit format gives it, and kernels read it as one; BitNet's raw layout stores
trit + 1, the code of ``encode_trit``.

Raw layout (I2_S/128): 128 consecutive weights of a row in 32 bytes; byte p holds weight p in bits 7-6, p + 32 in 5-4,
p + 64 in 3-2, p + 96 in 1-0. After the codes of the tensor one float32 scale, then 28 zero bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.base import Encoded, Prepared
from onnxquant.formats.facts import Facts
from onnxquant.formats.granularity import PerTensor
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Extent, Plane, Planes
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.formats.survey import Survey, Surveyed

_BLOCK, _TRAILER = 128, 32
_SHIFTS = np.array([6, 4, 2, 0], np.uint8)
# A plane's code is so much more than BitNet's.
_ABOVE_BITNET = np.uint8(1)


@dataclass(frozen=True)
class I2_S(ScaledCodes):  # noqa: N801  the field writes it so
    """BitNet's ternary weights with one scale for the tensor, meant for networks trained ternary."""

    name = "i2_s"
    bits = 2
    facts = Facts(rmse=0.5126)
    bottom = 1
    foreign = True
    foreign_cols = _BLOCK
    source = "microsoft/BitNet: I2_S, blocks of 128; scale after Ma et al. 2024"
    granularity = PerTensor()
    scale_dtype = np.float32
    surveyed = Surveyed.TENSOR

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:
        """The scale is defined to be one number, where other formats could have one per row."""
        scale = Plane.of("scales", (1, 1), self.scale_dtype, extent=Extent.TENSOR)
        return [Plane.of("codes", (rows, cols), np.uint8, bits=self.bits), scale]

    def prepare(self, survey: Survey | None) -> Prepared:
        """The scale is the one magnitude of a ternary weight, else the mean magnitude."""
        if survey is None:
            raise TypeError("i2_s needs a survey of the tensor")
        scale = survey.largest if survey.is_ternary else survey.total / survey.count
        return Prepared(self, np.array([scale], np.float32))

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        if shared is None:
            raise TypeError("i2_s needs the scale of the tensor")
        scale = shared[0]
        trits = np.clip(np.rint(groups / scale), -1, 1) if scale > 0 else np.zeros_like(groups)
        return {"codes": (trits + np.float32(2)).astype(np.uint8), "scales": shared}

    def warning(self, sqnr_db: float) -> str | None:  # noqa: D102
        if sqnr_db > 100:
            return None
        return (
            f"i2_s keeps only the sign of weights that were not trained ternary: {sqnr_db:.1f} dB here; "
            f"expect the model to fail"
        )

    def to_blocks(self, encoded: Encoded) -> NDArray[np.uint8]:
        """BitNet's raw tensor, uint8 [rows * cols / 4 + 32].

        Raises:
            WeightError: the row length is not a multiple of 128 (BitNet itself drops the rest silently).
        """
        self._check_cols(encoded.cols)
        codes = (encoded.planes["codes"] - _ABOVE_BITNET).reshape(-1, 4, _TRAILER)
        packed = np.bitwise_or.reduce(codes << _SHIFTS[None, :, None], axis=1).astype(np.uint8)
        tail = np.zeros(_TRAILER, np.uint8)
        tail[:4] = encoded.planes["scales"].reshape(-1).view(np.uint8)
        return np.concatenate([packed.reshape(-1), tail])

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int) -> Encoded:
        """The weight of BitNet's raw tensor (the 28 bytes after the scale are ignored).

        Raises:
            WeightError: wrong size, or the code 3, which BitNet's own kernels read in two ways.
        """
        self._check_cols(cols)
        raw = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
        size = rows * cols // 4
        if raw.size != size + _TRAILER:
            raise WeightError(f"format i2_s: {raw.size} bytes, expected {size + _TRAILER} for [{rows}, {cols}]")
        codes = (raw[:size].reshape(-1, 1, _TRAILER) >> _SHIFTS[None, :, None]) & 3
        if (codes == 3).any():
            raise WeightError("format i2_s: holds the code 3, which has no meaning")
        planes: Planes = {
            "codes": (codes + _ABOVE_BITNET).astype(np.uint8).reshape(rows, cols),
            "scales": raw[size : size + 4].copy().view(np.float32).reshape(1, 1),
        }
        return Encoded(self, rows, cols, planes, (rows, cols))

    def _check_cols(self, cols: int) -> None:
        if cols % _BLOCK:
            raise WeightError(f"format i2_s: {cols} columns, expected a multiple of {_BLOCK} for the raw layout")


def encode_trit(trits: NDArray[Any]) -> NDArray[np.uint8]:
    """BitNet's 2-bit codes of ternary numbers: 0, 1, 2 for -1, 0, +1, as they lie in its files (``I2_S.to_blocks``).

    The plane ``codes`` of a weight of format i2_s has one more: 1, 2, 3.

    Raises:
        WeightError: a number is none of these.

    >>> encode_trit(np.array([-1, 0, 1])).tolist()
    [0, 1, 2]
    """
    numbers = np.asarray(trits)
    if not np.isin(numbers, (-1, 0, 1)).all():
        raise WeightError("trits: expected -1, 0 and +1 alone")
    return (numbers + 1).astype(np.uint8)


def decode_trit(codes: NDArray[Any]) -> NDArray[np.int8]:
    """The ternary numbers of BitNet's 2-bit codes.

    Raises:
        WeightError: a code is none of 0, 1, 2.

    >>> decode_trit(np.array([0, 1, 2])).tolist()
    [-1, 0, 1]
    """
    numbers = np.asarray(codes)
    if not np.isin(numbers, (0, 1, 2)).all():
        raise WeightError("codes of trits: expected 0, 1 and 2; code 3 has no meaning")
    return (numbers.astype(np.int8) - np.int8(1)).astype(np.int8)
