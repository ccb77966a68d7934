"""What ggml's block formats share: float32 reciprocals, float16 scales, and the split of a row into blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.base import Encoded, Matrix, Planes, ScaledCodes


def reciprocal(scale: Matrix) -> Matrix:
    """1 / scale in float32; 0 where the scale is 0 or so small that its reciprocal overflows (ggml leaves that open)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def half(scale: Matrix) -> NDArray[np.float16]:
    """The scale as it is stored: rounded to nearest even, infinite when it is out of range (the caller refuses it)."""
    with np.errstate(over="ignore", under="ignore"):
        return scale.astype(np.float16)


def blocks_of(form: ScaledCodes, encoded: Encoded) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes [rows, blocks, group] (a short last block filled with zeros' code) and the scales' bytes [.., 2]."""
    codes, scales = encoded.planes["codes"], encoded.planes["scales"]
    rows, cols = codes.shape
    group = form.group or cols
    if cols % group:
        fill = np.full((rows, -cols % group), form.offset, np.uint8)
        codes = np.concatenate([codes, fill], axis=1)
    return codes.reshape(rows, -1, group), np.ascontiguousarray(scales)[..., None].view(np.uint8)


def shaped(form: ScaledCodes, blocks: NDArray[Any], rows: int, cols: int, size: int) -> NDArray[np.uint8]:
    """Raw bytes as uint8 [rows, blocks, size].

    Raises:
        WeightError: the byte count does not fit.
    """
    count = -(-cols // (form.group or cols))
    raw = np.ascontiguousarray(blocks).reshape(-1).view(np.uint8)
    if raw.size != rows * count * size:
        raise WeightError(
            f"format {form.name}: {raw.size} bytes, expected {rows * count * size} for shape [{rows}, {cols}]"
        )
    return raw.reshape(rows, count, size)


def encoded_of(form: ScaledCodes, scales: NDArray[np.uint8], codes: NDArray[np.uint8], rows: int, cols: int) -> Encoded:
    """Planes from the parts of the blocks."""
    planes: Planes = {
        "codes": np.ascontiguousarray(codes.reshape(rows, -1)[:, :cols]),
        "scales": np.ascontiguousarray(scales).view(np.float16)[..., 0],
    }
    return Encoded(form, rows, cols, planes, (rows, cols))
