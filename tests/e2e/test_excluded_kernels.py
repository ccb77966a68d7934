"""Kernels that are left in float among integer ones stay in float when onnxruntime has rewritten the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import node, weight

import onnxquant
from onnxquant.activations import insert
from onnxquant.activations.placement import AGAINST_LOSS
from onnxquant.errors import WeightError


def network() -> onnx.ModelProto:
    """Three convolutions with biases and activations."""
    made, name = [], "x"
    for i, strides in enumerate(([1, 1], [2, 2], [1, 1])):
        made += [
            node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1], strides=strides),
            node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        name = f"r{i}"
    made += [node("GlobalAveragePool", [name], ["pooled"]), node("Flatten", ["pooled"], ["y"])]
    constants = {f"w{i}": weight(16, 16 if i else 3, 3, 3, seed=i) * 4 for i in range(3)}
    constants |= {f"b{i}": weight(16, seed=9 + i) for i in range(3)}
    return graphs.model(made, {"x": ("float32", ["batch", 3, 12, 12])}, {"y": "float32"}, constants, opset=17)


def quantized(path: Path) -> Any:
    data = {"x": graphs.rng().standard_normal((16, 1, 3, 12, 12)).astype(np.float32)}
    options: dict[str, Any] = {
        "smooth": False,
        "equalize": False,
        "rebase": False,
        "calibration_method": "minmax",
        "solver": "rtn",
    }
    options["bias_correction"] = False  # a corrected bias is wrong for a weight that is not rounded
    return onnxquant.quantize(
        network(), path, activations="static", data=data, exclude=["^w1$"], **options, seed=0, samples=8
    )


def kernels(path: Path, folder: Path) -> list[str]:
    """Ops of convolutions that a session runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return sorted(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node if "Conv" in n.op_type)


def test_excluded_kernels_compute_in_float(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    report = quantized(path)
    assert report.passed
    assert kernels(path, tmp_path) == ["Conv", "QLinearConv", "QLinearConv"]
    # Nothing of it is left in the float model that it stands for.
    onnxquant.dequantize(path, tmp_path / "float.onnx")
    restored = {n.op_type for n in onnx.load(tmp_path / "float.onnx").graph.node}
    assert restored <= {n.op_type for n in network().graph.node} | {"Identity", "Cast"}


def test_onnxruntime_would_round_their_weights_without_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insert, "_keep_in_float", lambda proto: None)
    quantized(tmp_path / "out.onnx")
    assert kernels(tmp_path / "out.onnx", tmp_path) == ["QLinearConv"] * 3


def test_contributions_are_those_of_the_file_as_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    quantized(path)
    x = graphs.rng(3).standard_normal((8, 1, 3, 12, 12)).astype(np.float32)
    report = onnxquant.validate(network(), path, {"x": x}, samples=8, detailed=True)
    assert report.proof
    deployed = report.proof.outputs["float vs deployed"]["y"].sqnr_db
    for site in report.proof.contributions:
        # Rounding one thing less costs nothing, or little by chance.
        assert site.sqnr_db > deployed - 1 and site.share > -0.3, site


def loud(several: bool) -> onnx.ModelProto:
    """Two convolutions. The first does not use its loudest channel, whose size the codes of its input have to reach."""
    quiet = 3 * weight(16, 8, 3, 3)
    quiet[:, 0] = 0
    constants = {"w": quiet, "v": weight(48, 16, 3, 3, seed=2)}
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "v"], ["y"])]
    if not several:
        nodes, constants = nodes[:1], {"w": quiet}
        nodes[0].output[0] = "y"
    return graphs.model(nodes, {"x": ("float32", ["n", 8, 12, 12])}, {"y": "float32"}, constants)


@pytest.mark.parametrize(("several", "integer_kernels"), [(True, 1), (False, 0)])
def test_kernels_that_would_lose_the_outputs_are_left_in_float(
    tmp_path: Path, several: bool, integer_kernels: int
) -> None:
    samples = graphs.rng(3).standard_normal((12, 8, 12, 12)).astype(np.float32)
    samples[:, 0] *= 5000
    np.savez(tmp_path / "data.npz", x=samples)
    path = tmp_path / "out.onnx"
    options: dict[str, Any] = {"activations": "static", "data": tmp_path / "data.npz", "threads": 1}
    report = onnxquant.quantize(loud(several), path, **options)
    assert report.proof.quality[0].sqnr_db > 20
    assert report.activations.integer_kernels == integer_kernels
    assert AGAINST_LOSS.reason in report.activations.left_in_float.values() and not report.activations.excluded
    assert path.stat().st_size < loud(several).ByteSize()


@pytest.mark.parametrize(("value", "exclude"), [(1e30, ()), (np.nan, ("^w$",)), (np.nan, ())])
def test_kernels_whose_weight_no_scale_can_express_stay_in_float(
    tmp_path: Path, value: float, exclude: tuple[str, ...]
) -> None:
    w = weight(32, 32)
    w[3, 3] = value
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("MatMul", ["x", "v"], ["y"])]
    constants = {"w": w, "v": weight(32, 32, seed=2)}
    proto = graphs.model(nodes, {"x": ("float32", [4, 32])}, {"y": "float32", "z": "float32"}, constants)
    options: dict[str, Any] = {"activations": "static", "effort": "low", "exclude": exclude, "judge": ("y",)}
    samples = [{"x": graphs.rng(i).standard_normal((4, 32)).astype(np.float32)} for i in range(6)]
    if np.isnan(value) and not exclude:
        with pytest.raises(WeightError, match=r"weight .w. holds NaN or infinity.*--exclude"):
            onnxquant.quantize(proto, tmp_path / "out.onnx", data=samples, **options)
    else:
        report = onnxquant.quantize(proto, tmp_path / "out.onnx", data=samples, **options)
        assert [site.decision.name for site in report.encoded] == ["v"]
