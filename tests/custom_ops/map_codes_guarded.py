"""Run as a program: maps of codes whose arrays touch pages that cannot be read. A fault would take the program down."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from guard_pages import Guarded
from test_map_codes import map_codes, random_bytes

from onnxquant.native import library as native

memories = [Guarded(1 << 17) for _ in range(3)]
for isa in native.isas():
    for channels, inner in ((1, 1), (3, 1), (3, 5), (2, 33), (3, 65)):
        for rows in (1, 2, 31, 64, 65, 127):
            for at_end in (False, True):
                tables, codes = random_bytes(channels, 256), random_bytes(rows, channels, inner)
                expected = map_codes(tables, codes, channels, inner, "scalar")
                arrays = [
                    m.place(a, at_end) for m, a in zip(memories, (tables, codes, np.zeros_like(codes)), strict=True)
                ]
                np.testing.assert_array_equal(map_codes(*arrays[:2], channels, inner, isa, out=arrays[2]), expected)
print("right")
