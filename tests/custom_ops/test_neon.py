"""The kernels for 64-bit ARM, cross-compiled and emulated, where the tools for that are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

TOOLS = ("aarch64-linux-gnu-g++", "qemu-aarch64", "cmake")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer watches this process alone")
def test_arm_computes_what_numpy_says(tmp_path):
    env = {**os.environ, "BUILD": str(tmp_path / "build"), "QUICK": "1", "PYTHON": sys.executable}
    done = subprocess.run([ROOT / "scripts" / "test_neon.sh"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["max", "neoverse-n1", "cortex-a57"]
    assert all(line.endswith(", 0 failures") for line in lines), done.stdout
