"""Planes of one fixed weight per format, as they were when the format was released (tests/golden/planes/*.json).

These files are never regenerated: planes in models of users decode by the rules that made them. A format whose bytes change
is a new format. ``python tests/golden_planes.py NAME`` writes the file of a new format and refuses to replace one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from variants import variants

from onnxquant import encode
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded

FOLDER = Path(__file__).parent / "golden" / "planes"


def weight() -> NDArray[np.float32]:
    """[4, 320]: exact in any arithmetic; rows of different magnitudes, an outlier, a row of ties and zeros."""
    i = np.arange(4 * 320, dtype=np.int64).reshape(4, 320)
    noise = ((i * 7919 + 13) % 2003 - 1001).astype(np.float64) / 1024
    out = noise * np.abs(noise) * np.array([[1.0], [0.03125], [8.0], [1.0]])
    out[1, 77] = 3.0
    out[3] = np.where(i[3] % 3 == 0, 0.0, np.where(i[3] % 2, 0.5, -0.5))
    return out.astype(np.float32)


def as_data(encoded: Encoded) -> dict[str, Any]:
    """Planes as JSON."""
    return {
        name: {"dtype": str(p.dtype), "shape": list(p.shape), "hex": p.tobytes().hex()}
        for name, p in encoded.planes.items()
    }


def main(name: str) -> None:
    """Write the file of a new format."""
    cases = [
        {"parameters": v, "planes": as_data(encode(weight(), name, **v))}
        for v in variants(format_named(name))
        if format_named(name, **v).unfit(*weight().shape) is None
    ]
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.json").open("x", encoding="utf-8") as file:
        json.dump(cases, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
