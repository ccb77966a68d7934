"""Time and memory of loading a model, as proofs measure them."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest

import onnxquant
from onnxquant.errors import ModelError
from onnxquant.validation.footprint import footprint


@pytest.mark.footprint
def test_proofs_measure_time_and_memory_of_loading(tmp_path: Path) -> None:
    proto = graphs.matmul(2048, 2048)
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", samples=1)
    assert report.proof
    loading = report.proof.loading
    assert loading
    for measured, nbytes in ((loading.original, 4 * 2048**2), (loading.quantized, 2048**2)):
        assert 0 < measured.seconds < 60
        assert nbytes / 2 < measured.resident_bytes < 20 * nbytes


@pytest.mark.footprint
def test_a_model_that_does_not_load_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"broken\.onnx: cannot be loaded") as refusal:
        footprint(path)
    assert "raise" not in str(refusal.value), "no part of a traceback"
