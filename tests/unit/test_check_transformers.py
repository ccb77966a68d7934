"""Checkpoints that transformers loads; the layouts of other packages are for scripts/check_transformers.py itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT


def test_transformers_decodes_what_is_written_to_the_same_weights_and_logits() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    command = [sys.executable, "scripts/check_transformers.py", "safetensors float32", "GGUF q4_0", "GGUF q6_k"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["same"] * 3
