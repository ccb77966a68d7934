"""q8_k: ggml's 8-bit blocks of 256 with one float32 scale, byte-exact.

inverse = -127 / max with the signed element of largest magnitude (the first one on ties), q = min(127,
round-half-even(inverse * x)), d = 1 / inverse: the extreme maps to -127. A block whose inverse overflows (|max| below
3.8e-37) is stored as zeros; one whose 127 * d overflows (the last of float32) is refused. The code of a plane is q + 128.
ggml computes with this type and stores no model in it; q8_0 is smaller in its files (8.5 bits against 9.125), as planes
q8_k takes 8.125.

Layout of a ggml block (292 bytes): d float32, 256 int8, then 16 int16: the sums of 16 codes each. They are written for a
block of zeros too, where ggml leaves them as they are; reading ignores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.facts import Facts
from onnxquant.formats.ggml import blocks as ggml
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.numerics.arrays import Bytes


@dataclass(frozen=True)
class Q8_K(ggml.Blocks, ScaledCodes):  # noqa: N801  the field writes it so
    """ggml's 8-bit blocks of 256 with one float32 scale."""

    name = "q8_k"
    bits = 8
    facts = Facts(rmse=0.00701, drift=0.001)
    bottom = 1
    granularity = PerBlock(256)
    scale_dtype = np.float32
    block = 256
    block_bytes = 292
    filler = 128

    def encode_groups(self, groups: Matrix, shared: Matrix | None) -> Planes:  # noqa: D102
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.float32(-127) / ggml.extreme(groups)
        inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))
        codes = np.rint(inverse * groups)
        np.minimum(codes, np.float32(127), out=codes)
        codes += np.float32(128)
        scale = ggml.reciprocal(inverse)
        with np.errstate(over="ignore"):
            scale = np.where(np.isfinite(scale * np.float32(127)), scale, np.float32(np.inf))
        return {"codes": codes.astype(np.uint8), "scales": scale[..., 0]}

    def block_parts(self, planes: Planes) -> list[Bytes]:  # noqa: D102
        codes = planes["codes"] ^ np.uint8(0x80)
        sums = codes.view(np.int8).reshape(*codes.shape[:2], 16, 16).sum(axis=-1, dtype=np.int16)
        return [ggml.as_bytes(planes["scales"]), codes, ggml.as_bytes(sums)]

    def block_planes(self, raw: Bytes) -> Planes:  # noqa: D102
        return {"codes": raw[..., 4:260] ^ np.uint8(0x80), "scales": ggml.as_type(raw[..., :4], np.float32)}
