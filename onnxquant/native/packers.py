"""Codes packed as layouts store them: by the compiled library where it is there, by numpy with the same bytes where not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxquant.native import library
from onnxquant.native.jobs import Execution, PackJob, address, run
from onnxquant.native.library import TILE
from onnxquant.numerics.arrays import Bytes
from onnxquant.numerics.packing import low_bits, pack, unpack
from onnxquant.numerics.rows import in_threads


def pack_rows(codes: Bytes, bits: int, cols: int, pad: int, execution: Execution | None = None) -> Bytes:
    """Codes [N, K] as bytes [N, cols * bits / 8], first code lowest.

    Args:
        codes: one code per byte.
        bits: 2, 4 or 8.
        cols: columns that are stored, whole bytes of them.
        pad: code in the columns that are added.
        execution: threads and instruction set.
    """
    if not library.is_available():
        return pack(_padded(codes, len(codes), cols, pad), bits)
    packed = np.empty((len(codes), cols * bits // 8), np.uint8)
    _pack("rows", codes, PackJob(padded=cols, bits=bits, pad=pad), [packed], execution)
    return packed


def pack_tiles(
    codes: Bytes, bits: int, cols: int, pad: int, execution: Execution | None = None
) -> tuple[Bytes, Bytes | None]:
    """Codes [N, K] as the tile planes ``codes`` and, for odd widths, ``high``.

    Args:
        codes: one code per byte.
        bits: width of a code.
        cols: columns that are stored, whole vectors of them.
        pad: code in the rows and columns that are added.
        execution: threads and instruction set.
    """
    low, tiles = low_bits(bits), -(-len(codes) // TILE)
    if not library.is_available():
        padded = _padded(codes, tiles * TILE, cols, pad)
        packed = _in_tiles(pack(padded & np.uint8((1 << low) - 1), low))
        return packed, _in_tiles(_pack_high(padded, bits)) if bits > low else None
    widths = [low, bits - low] if bits > low else [low]
    planes = [np.empty((tiles, -(-cols * width // 32), TILE, 4), np.uint8) for width in widths]
    _pack("tiles", codes, PackJob(padded=cols, bits=bits, pad=pad), planes, execution)
    return planes[0], planes[1] if bits > low else None


def unpack_tiles(low: Bytes, high: Bytes | None, bits: int, cols: int) -> Bytes:
    """Codes [16 tiles, cols] of the tile planes."""
    width, rows = low_bits(bits), len(low) * TILE
    codes = unpack(low.transpose(0, 2, 1, 3).reshape(rows, -1), width, cols)
    if high is None:
        return codes
    fields, per_byte = 8 // width, 8 // (bits - width)
    parts = unpack(high.transpose(0, 2, 1, 3).reshape(rows, -1, 4, 1), bits - width, per_byte)
    ordered = parts.reshape(rows, -1, 4, per_byte // fields, fields).transpose(0, 1, 3, 2, 4)
    return codes | ordered.reshape(rows, -1) << np.uint8(width)


def _pack(layout: str, codes: Bytes, job: PackJob, planes: list[Bytes], execution: Execution | None) -> None:
    """Let the library write planes.

    Raises:
        NativeLibraryError: no plane has such codes or columns.
    """
    execution = execution or Execution()
    codes = library.in_order(codes)
    rows_per_step = 1 if layout == "rows" else TILE

    def work(part: slice) -> None:
        own = PackJob(isa=execution.isa.encode(), layout=layout.encode(), source=address(codes[part]))
        own.rows, own.cols, own.stride = part.stop - part.start, codes.shape[1], codes.shape[1]
        own.padded, own.bits, own.pad = job.padded, job.bits, job.pad
        for field, plane in zip(("low", "high"), planes, strict=False):
            setattr(own, field, address(plane[part.start // rows_per_step :]) if plane.size else None)
        run("pack_codes", own)

    in_threads(work, execution.parts(len(codes), job.padded), execution.threads)


def _pack_high(padded: Bytes, bits: int) -> Bytes:
    """High bits meet their low ones in the same byte: vector after vector, field after field."""
    width = low_bits(bits)
    fields, per_byte = 8 // width, 8 // (bits - width)
    parts = (padded >> np.uint8(width)).reshape(len(padded), -1, per_byte // fields, 4, fields)
    packed = pack(parts.transpose(0, 1, 3, 2, 4).reshape(len(padded), -1, 4, per_byte), bits - width)
    return packed.reshape(len(padded), -1)


def _in_tiles(packed: Bytes) -> Bytes:
    return np.ascontiguousarray(packed.reshape(len(packed) // TILE, TILE, -1, 4).transpose(0, 2, 1, 3))


def _padded(codes: Bytes, rows: int, cols: int, pad: int) -> Bytes:
    if codes.shape == (rows, cols):
        return codes
    out: NDArray[np.uint8] = np.full((rows, cols), pad, np.uint8)
    out[: codes.shape[0], : codes.shape[1]] = codes
    return out
