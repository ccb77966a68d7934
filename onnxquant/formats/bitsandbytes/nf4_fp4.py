"""nf4 and fp4: bitsandbytes' 4-bit tables (rule: ``block_table``).

nf4's values are quantiles of a normal distribution (Dettmers et al. 2023, QLoRA). fp4's are a sign bit and 0, 1/192, 2/3,
1, 1/3, 1/2, 1/6, 1/4; it is not OCP's E2M1. Of fp4's two zeros only code 0 is written: bitsandbytes writes code 8 for tiny
values of one sign, which sign depending on the device.

Double quantization stores the scales in 8 bits: offset = mean of all scales (a float64 sum, rounded to float32), and
blocks of 256 of the differences scale - offset, in row-major order, are coded with dynamic8's map by the rule of
``block_table``: scale = map[q] * nested_scale + nested_offset. Codes of weights are chosen with the exact scales.
bitsandbytes takes
the mean in float32 in an order of its own, and its CPU kernel sometimes misses the nearest value of the map: its q may differ
by a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.formats.base import Encoded
from onnxquant.formats.bitsandbytes.block_table import BlockTable
from onnxquant.formats.bitsandbytes.dynamic8 import Dynamic8, signed_map
from onnxquant.formats.facts import Facts
from onnxquant.formats.matrix import Matrix, check_finite
from onnxquant.formats.parameters import parameter
from onnxquant.formats.planes import Plane, Planes

_NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
# Scales to one float32 of double quantization.
NESTED_BLOCK = 256
_MAGNITUDES = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
_FP4 = np.concatenate([_MAGNITUDES, -_MAGNITUDES])


@dataclass(frozen=True)
class NestedTable(BlockTable):
    """Base of nf4 and fp4.

    Attributes:
        double_quant: True stores the scales in 8 bits, with one float32 for 256 of them.
    """

    double_quant: bool = parameter(
        False, "Store the scales in 8 bits too, with a scale for 256 of them.", "--double-quant", samples=(True,)
    )

    @property
    def bits_per_weight(self) -> float:  # noqa: D102
        side = 8 + 32 / NESTED_BLOCK if self.double_quant else 32
        return self.bits + side / self.block_size

    @property
    def inner(self) -> NestedTable:
        """The same format with float32 scales: codes are chosen with these."""
        return self.with_(double_quant=False) if self.double_quant else self

    def declared_planes(self, rows: int, cols: int) -> list[Plane]:  # noqa: D102
        codes, scales = super().declared_planes(rows, cols)
        if not self.double_quant:
            return [codes, scales]
        return [
            codes,
            Plane.of("scales", scales.shape, np.uint8),
            Plane.of("nested_scales", (-(-scales.size // NESTED_BLOCK),), np.float32),
            Plane.of("nested_offset", (1,), np.float32),
        ]

    def nest(self, planes: Planes) -> Planes:
        """Planes with scales in 8 bits.

        Raises:
            RangeError: scales are not finite once they are decoded.
        """
        if not self.double_quant:
            return planes
        nested = nest(planes["scales"])
        with np.errstate(over="ignore"):
            check_finite(self.name, {"scales": unnest(nested)})
        return {**planes, **nested}

    def unnest(self, planes: Planes) -> Planes:
        """Planes with float32 scales."""
        return {"codes": planes["codes"], "scales": unnest(planes)} if self.double_quant else planes

    @property
    def why_scales_fixed(self) -> str:
        """Scales of double quantization depend on each other."""
        nested = "its scales are stored in 8 bits, by the mean of all and the largest of 256"
        return self.why_not_solvable or (nested if self.double_quant else "")

    def from_blocks(self, blocks: NDArray[Any], rows: int, cols: int, absmax: NDArray[Any]) -> Encoded:
        """The weight of bitsandbytes' packed bytes and the largest magnitude of each block, as its base class takes them.

        Scales stay float32; ``nest`` turns them into 8-bit ones.

        Raises:
            WeightError: wrong sizes.
        """
        return super(NestedTable, self.inner).from_blocks(blocks, rows, cols, absmax)


def nest(scales: Matrix) -> Planes:
    """Scales in 8 bits: the planes ``scales``, ``nested_scales`` and ``nested_offset``."""
    flat = scales.reshape(-1)
    offset = np.float32(flat.sum(dtype=np.float64) / max(flat.size, 1))
    missing = -flat.size % NESTED_BLOCK
    differences = np.concatenate([flat - offset, np.zeros(missing, np.float32)])
    coded = Dynamic8(block_size=NESTED_BLOCK).coded(differences.reshape(1, -1))
    return {
        "scales": coded["codes"].reshape(-1)[: flat.size].reshape(scales.shape),
        "nested_scales": coded["scales"].reshape(-1),
        "nested_offset": np.array([offset], np.float32),
    }


def unnest(planes: Planes) -> Matrix:
    """Float32 scales of those planes, in the shape of ``scales``."""
    codes = planes["scales"]
    wide = np.repeat(planes["nested_scales"], NESTED_BLOCK)[: codes.size].reshape(codes.shape)
    values: Matrix = signed_map()[codes] * wide
    values += planes["nested_offset"]
    return values


@dataclass(frozen=True)
class NF4(NestedTable):
    """bitsandbytes' 4-bit quantiles of a normal distribution."""

    name = "nf4"
    bits = 4
    facts = Facts(rmse=0.092)
    source = "bitsandbytes: NF4 (Dettmers et al. 2023, QLoRA)"

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return _NF4


@dataclass(frozen=True)
class FP4(NestedTable):
    """bitsandbytes' 4-bit floats."""

    name = "fp4"
    bits = 4
    facts = Facts(rmse=0.1222)
    source = "bitsandbytes: FP4"

    @classmethod
    def table(cls) -> Matrix:  # noqa: D102
        return _FP4
