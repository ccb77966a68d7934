"""Where files run, and where they run fast."""

from __future__ import annotations

from pathlib import Path

import graphs
import onnx
import pytest
from commands import run

import onnxquant
from onnxquant.inspect.compatibility import advice

# As the releases themselves say: scripts/write_client_tables.py, scripts/check_compatibility.py.
SAID = {
    ("int2", "ort"): ">= 1.24, fast on >= 1.29; our kernels are not needed",
    ("int2", "onnx"): ">= 1.24, fast on >= 1.29; our kernels are not needed",
    ("tq2_0", "custom"): ">= 1.24, fast on >= 1.29; our kernels are optional and faster",
    ("tq2_0", "ort"): ">= 1.24, slower than float on all of them: ",
    ("int8", "onnx"): ">= 1.19, fast on >= 1.25; our kernels are not needed",
    ("int8", "ort"): ">= 1.22, fast on >= 1.22; our kernels are not needed",
    ("int4", "onnx"): ">= 1.19, fast on >= 1.19; our kernels are not needed",
    ("q5_0", "custom"): ">= 1.18; there 1 of our 1 ops decode weights at load and are only as fast as float. "
    "Fast with our kernels, on onnxruntime >= 1.23",
}


@pytest.mark.parametrize(("form", "target"), SAID)
def test_formats_and_targets(form: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    onnxquant.quantize(graphs.matmul(k=256, n=256), path, format=form, target=target, proof=False)
    assert SAID[form, target] in advice(path)
    assert SAID[form, target] in run("info", path, "--json").output


def test_float_models() -> None:
    assert advice(graphs.matmul()) == (
        "loads on onnxruntime >= 1.18, as fast as float on all of them; our kernels are not needed"
    )


def test_products_with_dynamic_activations_are_fast(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    data = [{"x": graphs.rng(i).standard_normal((2, 3, 256)).astype("float32")} for i in range(2)]
    onnxquant.quantize(graphs.matmul(k=256, n=256), path, activations="dynamic", data=data, proof=False)
    assert "DynamicProducts1" in {node.op_type for node in onnx.load(path).graph.node}
    assert ", fast on >= 1.18;" in advice(path)


def test_a_file_that_is_slower_without_our_library_is_not_called_fast_there() -> None:
    told = advice(graphs.matmul(), needs_library=True)
    assert told.endswith(", slower than the original there; fast with our kernels, on onnxruntime >= 1.23")
