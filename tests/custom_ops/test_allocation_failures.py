"""No allocation that fails takes the process down: the caller gets an error, and the next call is right."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxquant.native import library as native

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the preloaded malloc is written for glibc"),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has replaced malloc already"),
]


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """How many allocations failed, by call."""
    here, library = Path(__file__).parent, tmp_path_factory.mktemp("shim") / "fail_allocation.so"
    build = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*build, str(here / "fail_allocation.cpp"), "-ldl"], check=True)
    run = subprocess.run(
        [sys.executable, str(here / "allocation_failures.py")],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(Path(native.__file__).parents[2])},
    )  # fmt: skip
    assert run.returncode == 0, f"{run.returncode}: after {run.stdout.splitlines()[-1:]}: {run.stderr[-2000:]}"
    return {name: int(count) for name, count in (line.split() for line in run.stdout.splitlines())}


def test_every_failure_is_reported(failed):
    """The program checks each failure; here it is that it met as many as there must be."""
    assert failed["register"] > 200, "every operator has a name"
    for name, count in failed.items():
        # The names of few instruction sets fit a string without memory of its own.
        assert count > 0 or name in ("describe", "set_isa", "isas"), name
    assert failed["matmul_int8_llm_int8"] == 3, "the indices of two planes, and the scratch memory"


def test_what_needs_no_memory(failed):
    assert failed["describe"] == failed["set_isa"] == 0
