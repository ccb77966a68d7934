"""Instructions that a CPU may lack are only where the CPU has been asked for them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from onnxquant.native import library as native

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
X86 = platform.machine() in ("x86_64", "AMD64") and native.library_path().suffix == ".so"

pytestmark = pytest.mark.skipif(not X86, reason="about x86 and ELF")

# VEX and EVEX instructions begin with a v (verr and verw, older ones, are for kernels), AMX ones with tile or tdp.
BEYOND_SSE = re.compile(r"^\s+[0-9a-f]+:\s+(v(?!err|erw)\w+|tile\w+|[ls]dtilecfg|tdp\w+)\b")
OF_AN_INSTRUCTION_SET = re.compile(
    r"\bonnxquant::(\(anonymous namespace\)::)?(avx2|avxvnni|avx512vnni|avx512vbmi|avx512|amx)::"
)


def disassembly():
    """Name of the function and the line, for every instruction of the library."""
    shown = subprocess.run(
        ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(native.library_path())],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    function = ""
    for line in shown.splitlines():
        if line.endswith(">:"):
            function = line.partition("<")[2][:-2]
        else:
            yield function, line


@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_vectors_beyond_sse_stay_in_their_instruction_set():
    """Also what the linker chose among copies of inline functions: one of an AVX source would serve everybody."""
    stray, found, named = set(), set(), False
    for function, line in disassembly():
        named = named or "onnxquant::" in function
        if BEYOND_SSE.match(line):
            (found if OF_AN_INSTRUCTION_SET.search(function) else stray).add(function)
    if not named:
        pytest.skip("the library has been stripped of its functions' names")
    assert stray == set()
    compiled = {name for function in found for name in OF_AN_INSTRUCTION_SET.findall(function)}
    # Encoders need no VNNI, maps of codes more than some sets promise; the others have the names of the kernels' sets.
    parts = {"avx512", "avx512vbmi"}
    assert {name for _, name in compiled} - parts == set(native.compiled_isas()) - {"scalar"}


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None or COMPILER is None, reason="no qemu-x86_64 or no compiler")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer's runtime needs the real machine")
def test_a_cpu_without_avx(tmp_path):
    source, program = Path(__file__).parent / "old_cpu.cpp", tmp_path / "old_cpu"
    subprocess.run([COMPILER, "-std=c++17", "-O1", "-o", str(program), str(source), "-ldl"], check=True)
    run = subprocess.run(
        ["qemu-x86_64", "-cpu", "Nehalem", str(program), str(native.library_path())],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "scalar int8 right float32 right\n"), run.stderr[-500:]
