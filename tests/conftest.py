"""What all tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from onnxquant.validation import compare
from onnxquant.validation.footprint import Footprint

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = ROOT / "models" / "default.onnx"

# A shell ignores SIGINT for what it starts in the background, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def default_model() -> Path:
    """The small trained model of this repository."""
    return DEFAULT_MODEL


@pytest.fixture(autouse=True)
def _footprints(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load time and memory are measured in two processes, for seconds in each proof: where a test asks for ``footprint``."""
    if "footprint" not in request.keywords:
        monkeypatch.setattr(compare, "footprint", lambda path: Footprint(1.0, 1.0, 1.0))
