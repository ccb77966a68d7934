"""Targets: what works is what supported.json says, and the lowered model computes what the decoded weight says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agreement
import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import supported
from numpy.typing import NDArray

import onnxquant
from onnxquant.artifact.read import plane_index, read_encoded
from onnxquant.artifact.records import records
from onnxquant.formats.base import Format
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.io import load
from onnxquant.graph.sites import Site, find_sites
from onnxquant.graph.traverse import graphs as graphs_of
from onnxquant.graph.traverse import nodes
from onnxquant.passes.pipeline import prepare
from onnxquant.targets import Refusal
from onnxquant.targets.kinds import Activations
from onnxquant.targets.ort import Ort


def _run(path: Path | bytes, feeds: dict[str, NDArray[Any]], *, optimize: bool = True) -> NDArray[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path if isinstance(path, bytes) else str(path), options)
    out: NDArray[Any] = session.run(None, feeds)[0]
    return out


def _float_compute(path: Path) -> bytes:
    proto = onnx.load(path)
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    return proto.SerializeToString()


def _twin(source: Path, quantized: Path) -> onnx.ModelProto:
    """The prepared original with decoded weights, made here without the code under test's twin."""
    original, lowered = load(source), load(quantized)
    prepare(original)
    index = plane_index(lowered.proto)
    decoded = {r.name: (r, read_encoded(lowered, r, index)) for r in records(lowered.proto)}
    for site in find_sites(original)[0]:
        if site.name in decoded:
            record, encoded = decoded[site.name]
            codes = encoded.planes.get("codes")
            if codes is None or not isinstance(encoded.format, ScaledCodes) or encoded.format.permuted:
                # Their decoders are checked against other projects' in tests/golden.
                matrix = encoded.format.decode(encoded).astype(np.float64)
            else:
                form: Any = encoded.format
                group = form.granularity.size if isinstance(form.granularity, PerBlock) else encoded.cols
                zero = _spread(encoded.planes.get("zero_points", np.array([[form.offset]])), group, encoded.cols)
                scale = _spread(encoded.planes["scales"], group, encoded.cols)
                matrix = (codes.astype(np.float64) - zero) * scale.astype(np.float64)
            values = site.view.restore(matrix).astype(record.dtype)
            site.tensor.CopyFrom(onnx.numpy_helper.from_array(values, site.tensor.name))
    for tensor in [t for g in graphs_of(original.proto.graph) for t in g.initializer]:
        original.inline(tensor)
    return original.proto


def _spread(side: NDArray[Any], group: int, cols: int) -> NDArray[Any]:
    return side if side.shape == (1, 1) else np.repeat(side, group, axis=1)[:, :cols]


COMBINATIONS = list(supported.combinations())
# Kinds of sites that every format meets on every target: rows of whole blocks, and others.
WHOLE = ("matmul_blocks", "matmul_uneven")


def lowered() -> list[tuple[str, str, str]]:
    """Combinations to run: of other kinds every third, and what each kind and each variant needs to meet each target."""
    chosen, pairs = [], set[tuple[str, str]]()
    for i, (kind, target, variant) in enumerate(COMBINATIONS):
        new = {(kind, target), (target, variant)}
        if kind in WHOLE or i % 3 == 0 or not new <= pairs:
            chosen.append((kind, target, variant))
            pairs |= new
    return chosen


@pytest.mark.parametrize("kind", supported.MODELS)
def test_combinations_that_work_are_those_of_the_table_and_refusals_say_why(kind: str) -> None:
    weights_only = supported.weights_only(kind)
    now = supported.flat(kind, supported.computed(kind, weights_only))
    expected = supported.flat(kind, supported.table().get(kind, {}))
    lost, gained = sorted(expected - now), sorted(now - expected)
    assert not lost and not gained, f"lost {lost}; gained {gained}: if meant, run {supported.__file__} --write"
    refusals = [
        (target, plan.reason)
        for target, plans in weights_only.items()
        for plan in plans.values()
        if isinstance(plan, supported.Refused)
    ]
    assert refusals
    for target, reason in refusals:
        assert "nothing to quantize" in reason
        assert f": {target}: " in reason or "no whole number of blocks" in reason


def test_a_target_that_refuses_a_format_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Ort.check

    def refusing(self: Ort, site: Site, form: Format, opset: int) -> Refusal | None:
        return Refusal("planted") if form.name == "int4" else check(self, site, form, opset)

    monkeypatch.setattr(Ort, "check", refusing)
    now = supported.flat("matmul", supported.computed("matmul", supported.weights_only("matmul")))
    lost = supported.flat("matmul", supported.table()["matmul"]) - now
    assert {"matmul ort int4", "matmul ort int4-per_channel=true"} <= lost
    assert all(" ort int4" in line for line in lost)


def test_the_table_has_every_kind_of_site_and_every_target() -> None:
    assert supported.table().keys() == {*supported.MODELS, "solvers"}
    columns = {*supported.of_rules()} | {f"activations={a}" for a in supported.ACTIVATIONS}
    assert {frozenset(entry) for entry in (supported.table()[kind] for kind in supported.MODELS)} == {
        frozenset(columns)
    }


@pytest.mark.parametrize("target", [t for t in supported.of_rules() if t != "custom"])
def test_a_refused_model_is_not_written(target: str, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(onnxquant.ModelError, match="nothing to quantize"):
        onnxquant.quantize(graphs.matmul(48, 40), output, target=target, format="nf4", proof=False)
    assert not output.exists()


@pytest.mark.parametrize(("kind", "target", "variant"), lowered())
def test_lowered_model_computes_the_decoded_weight(kind: str, target: str, variant: str, tmp_path: Path) -> None:
    proto = supported.MODELS[kind]()
    source = graphs.save(proto, tmp_path / "source.onnx")
    output = tmp_path / "out.onnx"
    report = onnxquant.quantize(source, output, target=target, proof=False, **supported.VARIANTS[variant])
    assert report.predicted_bytes == pytest.approx(report.output_bytes, rel=0.01)
    feeds = supported.feeds(proto)
    expected = _run(_twin(source, output).SerializeToString(), feeds).astype(np.float64)
    tolerance = (2e-2 if "half" in kind else 2e-5) * np.abs(expected).max()
    exact = _float_compute(output)
    for optimize in (True, False):
        np.testing.assert_allclose(_run(exact, feeds, optimize=optimize), expected, rtol=0, atol=tolerance)
    # As deployed, products round activations to 8 bits: near, and (where there is a product) not suspiciously equal.
    deployed = _run(output, feeds)
    assert deployed.shape == expected.shape
    assert np.abs(deployed - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("kind", supported.beside(Activations.DYNAMIC))
def test_dynamic_products_are_near_the_decoded_weight(kind: str, tmp_path: Path) -> None:
    if agreement.products_saturate():
        pytest.skip("integer products saturate on this CPU, which has no VNNI")
    proto = supported.MODELS[kind]()
    source, output = graphs.save(proto, tmp_path / "source.onnx"), tmp_path / "out.onnx"
    feeds = supported.feeds(proto)
    onnxquant.quantize(source, output, activations="dynamic", smooth=False, data=[feeds], proof=False)
    expected, deployed = _run(_twin(source, output).SerializeToString(), feeds).astype(np.float64), _run(output, feeds)
    off = np.abs(deployed - expected).max() / np.abs(expected).max()
    assert 0 < off < 0.05


@pytest.mark.parametrize(("target", "variant"), [(t, v) for k, t, v in COMBINATIONS if k == "matmul_uneven"])
def test_planes_read_back_are_the_planes_encoded(target: str, variant: str, tmp_path: Path) -> None:
    source = graphs.save(supported.MODELS["matmul_uneven"](), tmp_path / "source.onnx")
    output = tmp_path / "out.onnx"
    onnxquant.quantize(source, output, target=target, proof=False, **supported.VARIANTS[variant])
    document = load(output)
    (record,) = records(document.proto)
    read = read_encoded(document, record)
    w = onnx.numpy_helper.to_array(onnx.load(source).graph.initializer[0]).T
    encoded = read.format.encode(w)
    assert encoded.planes.keys() == read.planes.keys()
    for plane, values in encoded.planes.items():
        np.testing.assert_array_equal(read.planes[plane], values, err_msg=plane)
