"""Operator IntegerNetwork: damaged nodes are refused, or run; nothing crashes, and nothing runs for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxquant.native import library as native

pytestmark = pytest.mark.skipif(
    not {"avxvnni", "avx512vnni", "amx"} & set(native.isas()), reason="no instruction set on which networks are faster"
)

# In a long run: 100000, and ONNXQUANT_TEST_FIRST for other damage.
CASES = int(os.environ.get("ONNXQUANT_TEST_HOSTILE", "60"))
FIRST = int(os.environ.get("ONNXQUANT_TEST_FIRST", "0"))
PROGRAM = Path(__file__).parent / "hostile_networks.py"
# What is not the operator's to refuse: attributes and inputs that onnxruntime does not hand over.
OTHERS = ("INVALID_GRAPH", "INVALID_ARGUMENT", "NOT_IMPLEMENTED", "FAIL")


def test_damaged_networks_are_refused_or_run():
    command = [sys.executable, str(PROGRAM), str(FIRST), str(CASES)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"{lines[-1]}: exit code {ended.returncode}\n{ended.stderr[-3000:]}"
    outcomes = lines[1::2]
    assert len(outcomes) == CASES
    assert outcomes[:2] == [{"ran": True}] * min(2, CASES)  # the whole ones
    for outcome in outcomes:
        error = outcome.get("error", "onnxquant::IntegerNetwork1")
        assert "onnxquant::IntegerNetwork1" in error or any(word in error for word in OTHERS), error
