"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = ROOT / "models" / "default.onnx"


@pytest.fixture
def default_model() -> Path:
    """The small trained model of this repository."""
    return DEFAULT_MODEL
