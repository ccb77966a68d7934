"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from onnxquant.batch import process
from onnxquant.batch.job import Job, run_job
from onnxquant.runtime import sessions
from onnxquant.validation import compare, latency, reference
from onnxquant.validation.footprint import Footprint

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = ROOT / "models" / "default.onnx"
LONGEST = ("test_neon.py", "test_allocation_failures.py", "test_search.py")

# Workers of a test run, and programs that they start, share the cores: threads that wait at full speed would take them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sessions.session_options.__kwdefaults__["spinning"] = False

# A shell ignores SIGINT for what it starts in the background, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first: at the end they would keep one worker busy while the others have nothing to do."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def default_model() -> Path:
    """The small trained model of this repository."""
    return DEFAULT_MODEL


@pytest.fixture(autouse=True)
def _brief_proofs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof measures load time and memory in two processes and runs the models for seconds: where a test is about that."""
    if "footprint" not in request.keywords:
        for module in (compare, reference):
            monkeypatch.setattr(module, "footprint", lambda path: Footprint(1.0, 1.0, 1.0))
    if "latency" not in request.keywords:
        monkeypatch.setattr(latency, "_MOST", 5)
        monkeypatch.setattr(latency, "_MOST_CALLS", 1)


@pytest.fixture
def batches_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of a batch run here, one after the other: a process for them takes seconds to start."""

    def run(jobs: Sequence[Job], count: int, listener: process.Listener, *, stop_at_failure: bool) -> None:
        for index, job in enumerate(jobs):
            row = run_job(job, partial(listener.advanced, index))
            listener.finished(index, row)
            if stop_at_failure and not row.done:
                return

    monkeypatch.setattr(process, "run", run)
