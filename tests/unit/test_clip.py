"""Weights that are clipped before they are rounded: ranges, models, recipes, and what has no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant import OnnxQuantError, clip_weight, decode, encode
from onnxquant.formats import formats
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.recipe.rules import Recipe


def outliers(seed: int = 0) -> NDArray[np.float32]:
    w = np.random.default_rng(seed).standard_normal((96, 256)).astype(np.float32)
    w[::17, 5] *= 40
    return w


@pytest.mark.parametrize("form", [f for f in formats() if f.has_grid], ids=lambda f: f.name)
def test_every_format_on_a_grid_is_clipped_at_the_percentile(form: onnxquant.Format) -> None:
    w = outliers()
    clipped = clip_weight(w, "percentile=99", form)
    if form.shifts:
        low, high = np.percentile(w, [0.5, 99.5])
    else:
        high = np.percentile(np.abs(w), 99)
        low = -high
    assert (clipped.min(), clipped.max()) == pytest.approx((low, high), abs=0.05)
    inside = (w > low + 0.05) & (w < high - 0.05)
    np.testing.assert_array_equal(clipped[inside], w[inside])


def test_methods_choose_the_ranges_that_they_are_defined_by() -> None:
    w = outliers()
    reach = 3 * float(w.astype(np.float64).std())
    assert np.abs(clip_weight(w, "mean-std=3", "int8")).max() == pytest.approx(reach, abs=0.05)
    for method in ("mse", "entropy"):
        assert np.abs(clip_weight(w, method, "int4")).max() < np.abs(w).max()
    np.testing.assert_array_equal(clip_weight(w, "percentile=100", "int8"), w)
    assert clip_weight(w.astype(np.float16), "percentile=99", "int8").dtype == np.float16
    # Per tensor, the steps of all weights are those of the largest: clipping pays.
    def error(weight: NDArray[np.float32]) -> float:
        decoded = decode(encode(weight, "int4", per_channel=False))
        return float(np.square(decoded - w)[np.abs(w) < 4].mean())

    assert error(clip_weight(w, "mse", "int4")) < 0.2 * error(w)


@pytest.mark.parametrize(
    ("clip", "format", "says"),
    [
        ("percentil=99", "int8", "did you mean 'percentile'"),
        ("minmax", "int8", "unknown method 'minmax'; known: entropy, mean-std, mse, percentile"),
        ("moving-average", "int8", "unknown method 'moving-average'"),
        ("percentile=0", "int8", "percentile is 0.0, expected a number above 0"),
        ("percentile=high", "int8", "'high' is no number"),
        ("percentile=", "int8", "'' is no number"),
        ("entropy=3", "int8", "entropy takes no number"),
        ("entropy", "f16", "f16 has no grid to clip for: its weights are floats"),
        ("entropy", "llm_int8", "llm_int8 has no grid to clip for"),
    ],
)
def test_what_cannot_be_clipped_is_refused(clip: str, format: str, says: str) -> None:
    with pytest.raises(OnnxQuantError, match=says):
        clip_weight(outliers(), clip, format)
    with pytest.raises(OnnxQuantError, match=says):
        Recipe.from_dict({"format": format, "clip": clip})


def model(tmp_path: Path) -> Path:
    proto = graphs.matmul(256, 96)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(outliers().T.copy(), proto.graph.initializer[0].name))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def weight_of(path: Path, tmp_path: Path) -> NDArray[np.float32]:
    """The decoded weight of a file, [rows, cols]."""
    onnxquant.dequantize(path, tmp_path / "float.onnx", force=True)
    return onnx.numpy_helper.to_array(onnx.load(tmp_path / "float.onnx").graph.initializer[0]).T


@pytest.mark.parametrize("format", ["int8", "q8_0", "nf4", "q4_1"])
def test_a_model_has_the_codes_of_its_clipped_weights(format: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = onnxquant.quantize(model(tmp_path), out, format=format, clip="percentile=99", proof=False)
    site = report.sites[0]
    assert site.decision.to_dict()["clip"] == "percentile=99"
    decoded = weight_of(out, tmp_path)
    assert site.decision.format is not None
    expected = decode(encode(clip_weight(outliers(), "percentile=99", format), site.decision.format))
    np.testing.assert_allclose(decoded, expected, rtol=1e-6, atol=1e-7)
    # The error is that against the weight before it was clipped.
    assert isinstance(site.error, ErrorFigures)
    assert site.error.max_error == pytest.approx(np.abs(decoded - outliers()).max(), rel=1e-5)


def test_solvers_and_recipes_clip_too(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    recipe = {"keep": True, "rules": [{"format": "int4", "clip": "percentile=99", "solver": "mse"}]}
    onnxquant.quantize(model(tmp_path), out, recipe=recipe, proof=False)
    decoded = weight_of(out, tmp_path)
    bound = np.abs(clip_weight(outliers(), "percentile=99", "int4")).max()
    assert np.abs(decoded).max() < 1.5 * bound < np.abs(outliers()).max() / 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip": "mse", "activations": "dynamic"}, "clip: has no effect beside activations"),
        ({"clip": "mse", "formats": ["int8", "int4"], "budget_bpw": 6.0}, "clip: has no effect beside formats"),
        ({"clip": "mse", "goal": "fast"}, "clip: has no effect beside goal"),
        ({"percentile": 99.9, "format": "q8_0"}, r"percentile: has no effect without --activations static; clip \(--clip\)"),
        ({"sigmas": 3.0}, r"sigmas: has no effect without --activations static; clip \(--clip\)"),
    ],
    ids=str,
)
def test_options_without_an_effect_are_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(OnnxQuantError, match=says):
        onnxquant.quantize(model(tmp_path), tmp_path / "out.onnx", **options)
    with pytest.raises(OnnxQuantError, match="clip: has no effect on weights that keep leaves in float"):
        Recipe.from_dict({"keep": True, "clip": "mse"})
