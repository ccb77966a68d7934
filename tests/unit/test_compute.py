"""Option ``compute``: what products of encoded weights lose."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from commands import refused, run

import onnxquant
from onnxquant.numerics.difference import Difference

K, N = 512, 256


def lost(path: Path, dense: Path) -> float:
    """SQNR in dB of a file's product against that of its decoded weight in float64."""
    onnxquant.dequantize(path, dense, force=True)
    proto = onnx.load(dense)
    decoded = next(a for t in proto.graph.initializer if (a := onnx.numpy_helper.to_array(t)).shape == (K, N))
    x = np.random.default_rng(1).standard_normal((8, 3, K)).astype(np.float32)
    session = onnxquant.load(path)
    found = session.run(None, {proto.graph.input[0].name: x})[0]
    difference = Difference()
    difference.add(x.astype(np.float64) @ decoded, found)
    return difference.sqnr_db


@pytest.mark.parametrize("form", ["int8", "int4", "q4_0", "nf4"])
@pytest.mark.parametrize("target", ["auto", "onnx", "custom"])
def test_float_products_round_no_activations(form: str, target: str, tmp_path: Path) -> None:
    if target == "onnx" and form == "nf4":
        pytest.skip("target onnx does not hold nf4")
    path, dense = tmp_path / "out.onnx", tmp_path / "dense.onnx"
    proto = graphs.matmul(k=K, n=N)
    report = onnxquant.quantize(proto, path, format=form, target=target, compute="float", proof=form == "int8")
    (site,) = report.encoded
    assert report.passed and site.decision.folded
    assert lost(path, dense) > 110
    # Else they do. A product in nf4 on our kernels rounds none, where the CPU has float instructions alone for it.
    onnxquant.quantize(proto, path, format=form, target=target, proof=False, force=True)
    assert form == "nf4" or 25 < lost(path, dense) < 60


def test_a_rule_may_say_it_for_some(tmp_path: Path) -> None:
    nodes = [
        graphs.node("MatMul", ["x", "a"], ["h"], name="first"),
        graphs.node("MatMul", ["h", "b"], ["y"], name="second"),
    ]
    constants = {"a": graphs.weight(K, K), "b": graphs.weight(K, N)}
    proto = graphs.model(nodes, {"x": ("float32", [1, K])}, {"y": "float32"}, constants, opset=21)
    recipe = {"format": "int8", "rules": [{"include": "second", "compute": "float"}]}
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", recipe=recipe, proof=False)
    assert {s.decision.name: s.decision.folded for s in report.encoded} == {"a": False, "b": True}


def test_searched_formats_too(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    x = graphs.rng().standard_normal((4, 1, 3, K)).astype(np.float32)
    report = onnxquant.quantize(
        graphs.matmul(k=K, n=N), path, data={"x": x}, budget_bpw=6, compute="float", proof=False
    )
    assert report.passed and all(s.decision.folded for s in report.encoded)


def test_compute_float_beside_integer_activations_is_refused(tmp_path: Path) -> None:
    path = graphs.save(graphs.matmul(k=K, n=N), tmp_path / "model.onnx")
    refused(run("quantize", path, "--compute", "float", "--activations", "dynamic"), "compute float", "activations")
    refused(run("quantize", path, "--compute", "flaot"), "flaot")
    recipe = tmp_path / "r.toml"
    recipe.write_text('compute = "int8"\n')
    refused(run("quantize", path, "--recipe", recipe), "compute", "'int8'", "auto, float")
