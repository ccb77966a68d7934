"""The compiled packers against numpy, for every instruction set."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from onnxquant.errors import NativeLibraryError
from onnxquant.native import library as native
from onnxquant.native import packers
from onnxquant.native.jobs import Execution, PackJob
from onnxquant.numerics.packing import pack

ISAS = native.isas()
SHAPES = [(1, 1, 32), (5, 17, 32), (16, 256, 256), (33, 100, 128), (40, 520, 544), (16, 31, 64)]
LOW = {2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 8: 8}


def padded(codes, cols, pad):
    out = np.full((-(-len(codes) // 16) * 16, cols), pad, np.uint8)
    out[: len(codes), : codes.shape[1]] = codes
    return out


def bit_by_bit(codes, bits):
    """The two planes, one bit after the other from the definition of their places."""
    low, high = LOW[bits], bits - LOW[bits]
    rows, cols = codes.shape
    fields, words = 8 // low, 32 // low
    planes = [np.zeros((rows // 16, -(-cols * width // 32), 16, 4), np.uint8) for width in (low, high)]
    for n, k in np.ndindex(rows, cols):
        vector, within = divmod(k, words)
        byte, field = divmod(within, fields)
        code = int(codes[n, k])
        planes[0][n // 16, vector, n % 16, byte] |= (code & (1 << low) - 1) << low * field
        if high:
            word, at = divmod(k, 32 // high)
            planes[1][n // 16, word, n % 16, byte] |= code >> low << high * (at // words * fields + field)
    return planes


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", LOW)
def test_tiles(bits, isa):
    for rows, cols, width in SHAPES:
        codes = np.random.default_rng([rows, cols]).integers(0, 1 << bits, (rows, cols), dtype=np.uint8)
        low, high = packers.pack_tiles(codes, bits, width, 1 << (bits - 1), Execution(isa=isa))
        expected = bit_by_bit(padded(codes, width, 1 << (bits - 1)), bits)
        np.testing.assert_array_equal(low, expected[0])
        if bits > LOW[bits]:
            np.testing.assert_array_equal(high, expected[1])
        else:
            assert high is None


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows(bits, isa):
    for rows, cols, width in SHAPES:
        codes = np.random.default_rng([rows, cols]).integers(0, 1 << bits, (rows, cols), dtype=np.uint8)
        expected = pack(padded(codes, width, 1)[:rows], bits)
        np.testing.assert_array_equal(packers.pack_rows(codes, bits, width, 1, Execution(isa=isa)), expected)


def test_threads_and_strides_change_nothing():
    codes = np.random.default_rng(0).integers(0, 32, (1000, 1100), dtype=np.uint8)
    one = packers.pack_tiles(codes, 5, 1120, 16, Execution(threads=1))
    three = packers.pack_tiles(codes[:, ::-1][:, ::-1], 5, 1120, 16, Execution(threads=3))
    np.testing.assert_array_equal(packers.pack_rows(codes[:, 1:1025] & 15, 4, 1024, 0), pack(codes[:, 1:1025] & 15, 4))
    assert all((a == b).all() for a, b in zip(one, three, strict=True))


def test_no_codes():
    low, high = packers.pack_tiles(np.empty((0, 32), np.uint8), 5, 32, 16)
    assert low.shape == (0, 4, 16, 4) and high is not None and high.shape == (0, 1, 16, 4)
    low, high = packers.pack_tiles(np.empty((3, 0), np.uint8), 5, 32, 16)
    assert (low == 0).all() and high is not None and (high[0, 0, :] == 255).all()
    assert packers.pack_rows(np.empty((0, 32), np.uint8), 4, 32, 8).shape == (0, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 7}, "no 7 bits"),
        ({"layout": b"rows", "bits": 3}, "no 3 bits"),
        ({"layout": b"columns"}, "expected tiles"),
        ({"padded": 36}, "multiple of 8"),
        ({"padded": 16}, "padded to 16"),
        ({"stride": 8}, "8 bytes from row to row"),
        ({"rows": -1}, r"\[-1, 32\]"),
        ({"pad": 256}, "pad 256"),
        ({"low": None}, "missing"),
        ({"source": None}, "missing"),
        ({"isa": b"mmx"}, "mmx"),
        ({"size": 8}, "not of one build"),
    ],
)
def test_mistakes_are_refused(change, message):
    codes, out = np.zeros((16, 32), np.uint8), np.zeros((1, 4, 16, 4), np.uint8)
    fields = {
        "isa": b"", "layout": b"tiles", "source": codes.ctypes.data, "rows": 16, "cols": 32, "stride": 32,
        "padded": 32, "bits": 4, "pad": 0, "low": out.ctypes.data,
    }  # fmt: skip
    job = PackJob(**{**fields, "size": ctypes.sizeof(PackJob), **change})
    assert native.function("pack_codes")(ctypes.byref(job)) == 1
    with pytest.raises(NativeLibraryError, match=message):
        raise NativeLibraryError(native.last_error())
