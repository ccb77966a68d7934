"""Channels scaled for AWQ and columns in another order: equal functions, better codes, files that prove themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import node, rng

from onnxquant import load as load_session
from onnxquant import quantize, validate
from onnxquant.artifact.records import Metadata, records
from onnxquant.errors import RecipeError
from onnxquant.graph.io import load

K, N = 256, 512


def sample(seed: int) -> dict[str, Any]:
    """A few channels are large, as in transformers."""
    x = rng(seed).standard_normal((1, 24, K)) * np.where(rng(9).random(K) < 0.04, 25.0, 1.0)
    return {"x": x.astype(np.float32)}


def gated_unit(path: Path, gain: np.ndarray, columns: np.ndarray) -> Path:
    """A normalization, a gated unit behind it, and a product back.

    Args:
        path: of the file.
        gain: of the normalization, per channel.
        columns: how large the weights that read a channel are.
    """
    made = [
        node("LayerNormalization", ["x", "gain", "shift"], ["n"], name="norm", axis=-1),
        node("MatMul", ["n", "wg"], ["g"], name="gate"),
        node("MatMul", ["n", "wu"], ["u"], name="up"),
        node("Sigmoid", ["g"], ["s"]),
        node("Mul", ["u", "s"], ["h"]),
        node("MatMul", ["h", "wd"], ["y"], name="down"),
    ]
    constants = {
        "gain": gain.astype(np.float32),
        "shift": np.zeros(K, np.float32),
        "wg": (rng(4).standard_normal((K, N)) * columns[:, None] * 0.02).astype(np.float32),
        "wu": (rng(5).standard_normal((K, N)) * columns[:, None] * 0.05).astype(np.float32),
        "wd": (rng(6).standard_normal((N, K)) * 0.05).astype(np.float32),
    }
    proto = graphs.model(made, {"x": ("float32", ["batch", 24, K])}, {"y": "float32"}, constants, opset=21)
    return graphs.save(proto, path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations whose channels differ."""
    gain = np.geomspace(0.05, 20, K)[rng(3).permutation(K)]
    return gated_unit(tmp_path_factory.mktemp("model") / "model.onnx", gain, np.ones(K))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose columns differ."""
    columns = np.geomspace(0.05, 4, K)[rng(3).permutation(K)]
    return gated_unit(tmp_path_factory.mktemp("uneven") / "model.onnx", np.ones(K), columns)


CALIBRATION, UNSEEN = [sample(i) for i in range(24)], [sample(100 + i) for i in range(8)]


def unseen(model: Path, output: Path) -> float:
    """SQNR of the outputs on inputs that nobody has seen."""
    signal = noise = 0.0
    sessions = [load_session(p) for p in (model, output)]
    for feed in UNSEEN:
        expected, found = (s.run(None, feed)[0].astype(np.float64) for s in sessions)
        signal, noise = signal + (expected**2).sum(), noise + ((found - expected) ** 2).sum()
    return float(10 * np.log10(signal / noise))


def test_awq_scales_what_can_take_it(model: Path, tmp_path: Path) -> None:
    plain, searched, scaled = (tmp_path / f"{solver}.onnx" for solver in ("rtn", "mse", "awq"))
    options = {"format": "int4", "target": "ort", "data": CALIBRATION}
    quantize(model, plain, solver="rtn", proof=False, **options)
    quantize(model, searched, solver="mse", proof=False, **options)
    report = quantize(model, scaled, solver="awq", **options)
    assert report.passed and not report.to_dict()["problems"]
    assert any("2 activations scaled (2 by what makes it)" in note for note in report.notes)
    metadata = Metadata.read(load(scaled).proto)
    assert metadata and metadata.changed_weights == {"wg", "wu", "wd"}
    # What the file's weights are is the original's, up to factors per row and column; whoever validates is told so.
    again = validate(model, scaled, UNSEEN, samples=2)
    assert again.passed and again.proof and any("3 weights were rescaled" in n for n in again.proof.notes)
    assert unseen(model, scaled) > unseen(model, plain) + 3
    assert unseen(model, scaled) > unseen(model, searched) - 0.1


def test_awq_needs_data(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="solver awq needs samples"):
        quantize(model, tmp_path / "out.onnx", format="int4", solver="awq")


@pytest.mark.parametrize(
    ("strategy", "solver", "gain"), [("norm", "rtn", 1.5), ("norm", "gptq", 1), ("activation", "rtn", -1)]
)
def test_orders_are_folded_or_stored(uneven: Path, tmp_path: Path, strategy: str, solver: str, gain: float) -> None:
    """What the gated unit makes can be made in another order; what the caller's input makes cannot, so that is stored."""
    plain, ordered = tmp_path / "plain.onnx", tmp_path / "ordered.onnx"
    options = {"format": "q4_0", "target": "custom", "solver": solver, "data": CALIBRATION}
    quantize(uneven, plain, proof=False, **options)
    report = quantize(uneven, ordered, permutation=strategy, **options)
    assert report.passed and any("permuted" in note for note in report.notes)
    stored = {r.name: bool(r.parameters.get("permuted")) for r in records(onnx.load(ordered))}
    assert stored == {"wg": True, "wu": True, "wd": False}
    assert unseen(uneven, ordered) > unseen(uneven, plain) + gain


def test_an_order_that_a_target_cannot_store_is_left_out(model: Path, tmp_path: Path) -> None:
    report = quantize(
        model, tmp_path / "out.onnx", format="int4", target="ort", permutation="norm", data=CALIBRATION, proof=False
    )
    assert {r.name for r in records(load(tmp_path / "out.onnx").proto) if r.parameters.get("permuted")} == set()
    assert len(report.encoded) == 3


def test_activation_order_needs_data(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="permutation activation needs samples"):
        quantize(model, tmp_path / "out.onnx", format="q4_0", permutation="activation")
