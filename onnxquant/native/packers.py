"""Codes packed as layouts store them: by the compiled library where it is there, by numpy with the same bytes where not."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import NativeLibraryError
from onnxquant.native import encoders as encoder
from onnxquant.native.library import TILE, library_path
from onnxquant.numerics.packing import Codes, low_bits, pack, unpack


@cache
def is_compiled() -> bool:
    """Whether the compiled library packs."""
    try:
        return library_path().is_file()
    except NativeLibraryError:
        return False


def pack_rows(codes: Codes, bits: int, cols: int, pad: int) -> Codes:
    """Codes [N, K] as bytes [N, cols * bits / 8], first code lowest, ``pad`` in the columns added."""
    if is_compiled():
        return encoder.pack_rows(codes, bits, cols, pad)
    return pack(_padded(codes, len(codes), cols, pad), bits)


def pack_tiles(codes: Codes, bits: int, cols: int, pad: int) -> tuple[Codes, Codes | None]:
    """Codes [N, K] as the tile planes ``codes`` and, for odd widths, ``high``."""
    if is_compiled():
        return encoder.pack_tiles(codes, bits, cols, pad)
    padded = _padded(codes, -(-len(codes) // TILE) * TILE, cols, pad)
    low = low_bits(bits)
    packed = _in_tiles(pack(padded & np.uint8((1 << low) - 1), low))
    return packed, _in_tiles(_pack_high(padded, bits)) if bits > low else None


def unpack_tiles(low: Codes, high: Codes | None, bits: int, cols: int) -> Codes:
    """Codes [16 tiles, cols] of the tile planes."""
    width, rows = low_bits(bits), len(low) * TILE
    codes = unpack(low.transpose(0, 2, 1, 3).reshape(rows, -1), width, cols)
    if high is None:
        return codes
    fields, per_byte = 8 // width, 8 // (bits - width)
    parts = unpack(high.transpose(0, 2, 1, 3).reshape(rows, -1, 4, 1), bits - width, per_byte)
    ordered = parts.reshape(rows, -1, 4, per_byte // fields, fields).transpose(0, 1, 3, 2, 4)
    return codes | ordered.reshape(rows, -1) << np.uint8(width)


def _pack_high(padded: Codes, bits: int) -> Codes:
    """High bits meet their low ones in the same byte: vector after vector, field after field."""
    width = low_bits(bits)
    fields, per_byte = 8 // width, 8 // (bits - width)
    parts = (padded >> np.uint8(width)).reshape(len(padded), -1, per_byte // fields, 4, fields)
    packed = pack(parts.transpose(0, 1, 3, 2, 4).reshape(len(padded), -1, 4, per_byte), bits - width)
    return packed.reshape(len(padded), -1)


def _in_tiles(packed: Codes) -> Codes:
    return np.ascontiguousarray(packed.reshape(len(packed) // TILE, TILE, -1, 4).transpose(0, 2, 1, 3))


def _padded(codes: Codes, rows: int, cols: int, pad: int) -> Codes:
    if codes.shape == (rows, cols):
        return codes
    out: NDArray[np.uint8] = np.full((rows, cols), pad, np.uint8)
    out[: codes.shape[0], : codes.shape[1]] = codes
    return out
