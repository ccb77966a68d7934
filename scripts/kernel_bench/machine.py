"""Description of the machine, and how busy others keep it."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxquant
from onnxquant.native import library as native

TICK = 1 / os.sysconf("SC_CLK_TCK")
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_vbmi", "avx512_bf16", "amx_int8", "amx_bf16")


def last_level_cache() -> int:
    """Bytes of the largest cache that a core reaches."""
    sizes = [0]
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = size.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes) or 32 << 20


def available_memory() -> int:
    """Bytes that can be taken without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def describe(isa: str | None) -> dict[str, Any]:
    """Versions, CPU, caches."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ", 1)[1] for line in info if line.startswith("model name")), platform.processor())
    flags = next((line.split() for line in info if line.startswith("flags")), [])
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=False).stdout
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in flags,
        "features": [f for f in FEATURES if f in flags],
        "last_level_cache": last_level_cache(),
        "kernel": platform.release(),
        "compiler": compiler.split("\n", 1)[0],
        "python": platform.python_version(),
        "onnxquant": onnxquant.__version__,
        "onnxruntime": ort.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "our_instruction_sets": native.isas(),
        "isa": isa or native.isas()[-1],
    }


@dataclass
class Load:
    """CPU time of others on this machine while something runs, in CPUs; steal by other virtual machines included."""

    pids: list[int]

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._begin = self._now()

    def foreign(self) -> float:
        """CPUs that others used since."""
        elapsed, busy, own = (after - before for after, before in zip(self._now(), self._begin, strict=True))
        return max(0.0, (busy - own) / elapsed) if elapsed > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        own = 0
        for pid in [os.getpid(), *self.pids]:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            own += int(fields[11]) + int(fields[12])
        return uptime, (user + nice + system + irq + softirq + steal) * TICK, own * TICK
