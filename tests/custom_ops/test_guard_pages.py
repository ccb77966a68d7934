"""Nothing is read or written outside of the arrays that the library is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kernels
import pytest

from onnxquant.native import library as native

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mprotect")

TAILS = int(os.environ.get("ONNXQUANT_TEST_TAILS", "12"))  # numbers of columns per format; 71 are all of them


def test_arrays_at_the_edge_of_unmapped_pages():
    program = Path(__file__).parent / "guard_pages.py"
    run = subprocess.run(
        [sys.executable, str(program), str(TAILS)],
        capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(native.__file__).parents[2])},
    )  # fmt: skip
    assert run.returncode == 0, f"{run.returncode}: after {run.stdout.splitlines()[-1:]}: {run.stderr[-2000:]}"
    calls = dict(line.split() for line in run.stdout.splitlines())
    assert list(calls) == kernels.formats()
    assert all(int(count) >= 4 * TAILS * len(native.isas()) for count in calls.values())
