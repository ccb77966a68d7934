"""Programs in C++ that measure beside Python: built once, kept in the user's cache, spoken to by lines."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kernel_bench.models import RefusedError

HERE = Path(__file__).parent
GGML = "llama-cpp-python==0.3.36"
AVX2_OPTIONS = ["-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"]
# MLAS asks `xor ecx, ecx; xgetbv; mov eax, eax` which registers the system saves before it uses AVX-512 or AMX. With
# `xor ecx, ecx; mov eax, 7` in its place the answer is x87, SSE and AVX, as on a CPU that has no more.
ASKS, AVX_ONLY = bytes.fromhex("31c9 0f01d0 89c0"), bytes.fromhex("31c9 b807000000")


class Child:
    """A program that answers each line with a line."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words: object) -> str:
        """Send a line, return the answer.

        Raises:
            RefusedError: the program said no.
        """
        assert self.process.stdin and self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer or answer.split()[0] == "no":
            raise RefusedError(answer[3:] or "the program ended")
        return answer

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Products:
    """Products that ggml has loaded."""

    child: Child
    name: str
    copies: int
    nbytes: int

    def run(self, m: int, warm: int, runs: int) -> list[float]:
        """Seconds per product of each timed run, on M rows."""
        answer = self.child.ask("run", self.name, m, warm, runs)
        return [float(t) / self.copies for t in answer.split()]


@dataclass
class Reading:
    """Sweeps over a buffer, as fast as this machine reads."""

    child: Child
    nbytes: int
    threads: int
    copies: int = 1

    def run(self, m: int, warm: int, runs: int) -> list[float]:
        """Seconds of each sweep."""
        return [float(t) for t in self.child.ask("read", self.nbytes, self.threads, warm, runs).split()]


def cache() -> Path:
    """Folder of built programs."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxquant-bench"
    root.mkdir(parents=True, exist_ok=True)
    return root


def peaks_program() -> Path:
    """The program that measures peaks."""
    source = HERE / "peaks.cpp"
    program = cache() / f"peaks-{_key(source)}"
    if not program.exists():
        options = ["-std=c++17", "-O3", "-march=native", "-fopenmp"]
        subprocess.run(["g++", *options, str(source), "-o", str(program)], check=True)
    return program


def ggml_program(archive: Path | None, *, avx2: bool) -> Path:
    """The program that times ggml, from the source package of llama-cpp-python."""
    build = cache() / f"ggml{'-avx2' if avx2 else ''}-{_key(HERE / 'ggml_bench.cpp', HERE / 'CMakeLists.txt')}"
    program = build / "ggml_bench"
    if program.exists():
        return program
    source = next(_ggml_source(archive).glob("*/vendor/llama.cpp/ggml"))
    options = [f"-DGGML_SOURCE={source}", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_LLAMAFILE=ON"]
    options += AVX2_OPTIONS if avx2 else ["-DGGML_NATIVE=ON"]
    with (cache() / "build.log").open("w") as log:
        for command in (
            ["cmake", "-S", str(HERE), "-B", str(build), *options],
            ["cmake", "--build", str(build), "--target", "ggml_bench", "--parallel", str(os.cpu_count())],
        ):
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return program


def _ggml_source(archive: Path | None) -> Path:
    source = cache() / GGML
    if not source.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            if archive is None:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
                subprocess.run([*command, "--dest", folder, GGML], check=True)
                archive = next(Path(folder).glob("*.tar.gz"))
            with tarfile.open(archive) as tar:
                tar.extractall(Path(folder) / "source", filter="data")
            (Path(folder) / "source").rename(source)
    return source


def capped_onnxruntime() -> Path:
    """A folder with a copy of onnxruntime that believes that this CPU has AVX2 and nothing better.

    Neither onnxruntime nor MLAS has a switch for that; ours are compared fairly only with such a copy.

    Raises:
        RefusedError: this build of onnxruntime asks in another way.
    """
    spec = importlib.util.find_spec("onnxruntime")
    assert spec and spec.origin
    package = Path(spec.origin).parent
    library = next((package / "capi").glob("onnxruntime_pybind11_state*"))
    code = library.read_bytes()
    if ASKS not in code:
        raise RefusedError("no known query of the CPU in onnxruntime's library")
    folder = cache() / f"onnxruntime-avx2-{hashlib.sha256(code).hexdigest()[:12]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            copy = Path(scratch) / "copy"
            shutil.copytree(package, copy / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__"))
            (copy / "onnxruntime" / "capi" / library.name).write_bytes(code.replace(ASKS, AVX_ONLY))
            copy.rename(folder)
    return folder


def _key(*sources: Path) -> str:
    content = b"".join(s.read_bytes() for s in sources) + _cpu_flags().encode()
    return hashlib.sha256(content).hexdigest()[:12]


def _cpu_flags() -> str:
    """Programs are built for one CPU: another one that shares the cache folder needs its own."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("flags")), "")
