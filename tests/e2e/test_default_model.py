"""The embedded model end to end: the Python API, proof, accuracy on labelled data, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxquant

DATA = Path(__file__).resolve().parents[2] / "models" / "default_test.npz"


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(DATA) as data:
        return (data["image"][:1000].astype(np.float32) / 255)[:, None], data["label"][:1000]


def accuracy(session: ort.InferenceSession, images: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> float:
    (logits,) = session.run(None, {"image": images[0]})
    return float((logits.argmax(1) == images[1]).mean())


@pytest.mark.parametrize(
    ("options", "least", "smaller"),
    [
        ({}, 0.985, 3.3),
        ({"format": "int4"}, 0.98, 5.2),
        ({"format": "int4", "target": "onnx"}, 0.98, 5.3),
        ({"format": "q8_0"}, 0.985, 3.3),
        ({"format": "q4_0"}, 0.98, 5.2),
        ({"format": "q4_0", "target": "custom"}, 0.98, 5.5),
        ({"format": "f16"}, 0.985, 1.9),
    ],
    ids=str,
)
def test_quantized_model_is_smaller_proven_and_accurate(
    options: dict[str, Any], least: float, smaller: float, default_model: Path, images: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    before = default_model.read_bytes()
    report = onnxquant.quantize(default_model, output, samples=2, **options)
    assert report.passed, report.proof and report.proof.problems
    assert default_model.read_bytes() == before
    assert report.original_bytes / output.stat().st_size > smaller
    assert report.predicted_bytes == pytest.approx(report.output_bytes, rel=0.01)
    assert accuracy(onnxquant.load(output), images) >= least
    # Stock onnxruntime, nothing of ours registered.
    assert accuracy(ort.InferenceSession(output), images) >= least
    assert all(s.decision.reason for s in report.sites)
    onnx.checker.check_model(str(output), full_check=True)


def test_float_weights_come_back(default_model: Path, images: Any, tmp_path: Path) -> None:
    for target in ("ort", "onnx", "custom"):
        small, back = tmp_path / f"{target}.onnx", tmp_path / f"{target}.float.onnx"
        onnxquant.quantize(default_model, small, format="q4_0", target=target, proof=False)
        count = onnxquant.dequantize(small, back)
        assert count >= 9
        onnx.checker.check_model(str(back), full_check=True)
        ops = {n.op_type for n in onnx.load(back).graph.node}
        assert not {"MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "MatMulQ4_0"} & ops
        report = onnxquant.validate(back, small, [{"image": images[0][:1]}])
        (difference,) = report.proof.outputs["float vs deployed"].values()
        assert difference.sqnr_db > 35


def test_running_twice_never_encodes_again(default_model: Path, tmp_path: Path) -> None:
    once = tmp_path / "once.onnx"
    onnxquant.quantize(default_model, once, proof=False)
    with pytest.raises(onnxquant.ModelError, match="already quantized by onnxquant"):
        onnxquant.quantize(once, tmp_path / "twice.onnx")
    assert not (tmp_path / "twice.onnx").exists()


def test_weight_level_api_takes_any_encoding(default_model: Path, tmp_path: Path) -> None:
    model = onnxquant.Model(default_model)
    site = next(s for s in model.sites if s.name == "head.hidden.weight")
    weight = model.weight(site.name)
    assert weight.shape == (site.rows, site.cols) == (64, 3136)
    doubled = onnxquant.encode(weight * 2, "q8_0")
    model.set(site.name, doubled, target="ort")
    output = tmp_path / "doubled.onnx"
    model.save(output)
    read = onnxquant.info(output)
    assert read.formats == {"q8_0": 1}
    report = onnxquant.validate(default_model, output)
    assert report.proof
    error = report.proof.weights[site.name].error
    assert error.sqnr_db == pytest.approx(0, abs=0.1)  # twice the weight: the error is the weight itself
    with pytest.raises(onnxquant.RecipeError, match=r"did you mean 'head\.hidden\.weight'"):
        model.weight("head.hiden.weight")
    with pytest.raises(onnxquant.RecipeError, match=r"expected \[64, 3136\]"):
        model.set(site.name, onnxquant.encode(weight.T, "q8_0"))


def test_python_api_answers_for_machines(default_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    report = onnxquant.quantize(default_model, output, bits=4, include=["head", "mlp"], exclude="logits")
    assert {s.decision.name for s in report.encoded} == {
        "block.mlp.up.weight",
        "block.mlp.down.weight",
        "head.hidden.weight",
    }
    assert '"schema": 2' in report.to_json()
    described = onnxquant.info(output)
    assert described.formats == {"int4": 3}
    assert described.original_bytes == default_model.stat().st_size
    assert 4 < described.bits_per_weight < 32
    rows = onnxquant.benchmark(default_model, output, threads=1)
    assert [r.size_ratio > 1 for r in rows] == [False, True]
    assert all(onnxquant.verify(output).values())
    assert [t.name for t in onnxquant.targets.targets()] == ["custom", "dynamic", "dynamic_lstm", "onnx", "ort", "qdq"]
    assert onnxquant.library_path().exists()


def test_sources_may_be_objects(default_model: Path, tmp_path: Path) -> None:
    import onnx_graphsurgeon as gs

    proto = onnx.load(default_model)
    outputs = []
    for i, source in enumerate((default_model, proto, gs.import_onnx(proto))):
        outputs.append(tmp_path / f"{i}.onnx")
        assert onnxquant.quantize(source, outputs[-1], samples=1).passed
    feed = {"image": np.full((1, 1, 28, 28), 0.5, np.float32)}
    results = [ort.InferenceSession(o).run(None, feed)[0] for o in outputs]
    assert np.array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], atol=1e-5)
    with pytest.raises(onnxquant.RecipeError, match="output is missing"):
        onnxquant.quantize(proto)


def test_data_may_be_arrays_or_samples(default_model: Path, images: Any, tmp_path: Path) -> None:
    arrays = {"image": images[0][:3]}
    for i, data in enumerate((arrays, [{"image": images[0][:1]}])):
        report = onnxquant.quantize(default_model, tmp_path / f"{i}.onnx", data=data, format="int8")
        assert report.proof and report.proof.feeds.samples == 3 - 2 * i
    with pytest.raises(onnxquant.FeedError, match=r"expected \{input name: array\} for each sample"):
        onnxquant.quantize(default_model, tmp_path / "no.onnx", data=images[0])


def test_doubts_are_warnings(default_model: Path, tmp_path: Path) -> None:
    report = onnxquant.quantize(default_model, tmp_path / "low.onnx", format="int2")
    assert any("costs this model its accuracy" in w for w in report.warnings)
    report = onnxquant.quantize(default_model, tmp_path / "one.onnx", include="mlp.up")
    assert any("hardly smaller" in w for w in report.warnings)


def test_recipe_rules_apply_in_order(default_model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'format = "int4"\n[[rules]]\ninclude = "embed"\nformat = "int8"\n[[rules]]\nrole = "conv"\nkeep = true\n'
        '[[rules]]\ninclude = "nothing-is-called-so"\n'
    )
    report = onnxquant.quantize(default_model, tmp_path / "out.onnx", recipe=recipe, proof=False)
    formats = {s.decision.name: s.decision.format and s.decision.format.name for s in report.sites}
    assert formats["embed.level.table"] == "int8"
    assert formats["stem.pointwise.weight"] is None
    assert formats["head.hidden.weight"] == "int4"
    assert any("rule 3" in w for w in report.warnings)
