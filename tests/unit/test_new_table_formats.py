"""Formats of another package with a table of values: float16 scales, and scales that are powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant.artifact import lowering
from onnxquant.formats import Facts, PerBlock, registry
from onnxquant.formats.base import Prepared
from onnxquant.formats.planes import Planes
from onnxquant.formats.table import TableCodes, levels_of, midpoints_of
from onnxquant.graph.io import load
from onnxquant.graph.needs import View
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import find_sites
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.plan.planner import decide
from onnxquant.recipe.rules import Rule
from onnxquant.solvers import jobs
from onnxquant.targets.layouts.tiles import TilesLayout

POWERS_OF_TWO = np.dtype(ml_dtypes.float8_e8m0fnu)


@dataclass(frozen=True)
class TableOfBytes(TableCodes):
    """A table of int8 values with a float16 scale per block of 32."""

    name = "table_of_bytes"
    bits = 4
    granularity = PerBlock(32)
    facts = Facts(rmse=0.1)
    scale_dtype = np.float16

    @classmethod
    def table(cls) -> NDArray[np.float32]:
        values = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
        return np.array(values, np.float32)

    def step(self, largest: NDArray[np.float32]) -> NDArray[Any]:
        return (largest / np.float32(127)).astype(np.float16)

    def encode_rows(self, chunk: NDArray[np.float32], first: int, prepared: Prepared) -> Planes:
        rows, cols = chunk.shape
        groups = np.pad(chunk, ((0, 0), (0, -cols % 32))).reshape(rows, -1, 32)
        scales = self.step(np.abs(groups).max(axis=-1))
        steps = scales.astype(np.float32)[..., None]
        ratio = np.divide(groups, steps, out=np.zeros_like(groups), where=steps != 0)
        codes = levels_of(type(self))[1][np.searchsorted(midpoints_of(type(self)), ratio)]
        return {"codes": codes.reshape(rows, -1)[:, :cols], "scales": scales}


@dataclass(frozen=True)
class PowersOfTwo(TableOfBytes):
    """E2M1 codes with a power of two per block of 32."""

    name = "powers_of_two"
    scale_dtype = POWERS_OF_TWO

    @classmethod
    def table(cls) -> NDArray[np.float32]:
        positive = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
        return np.concatenate([positive, -positive])

    def step(self, largest: NDArray[np.float32]) -> NDArray[Any]:
        return np.exp2(np.floor(np.log2(np.maximum(largest, 1e-30))) - 2).astype(np.float32).astype(self.scale_dtype)


FORMATS = [TableOfBytes(), PowersOfTwo()]


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_weights_are_table_values_times_scales(form: TableOfBytes) -> None:
    w = graphs.weight(20, 100)
    encoded = onnxquant.encode(w, form)
    scales = np.repeat(encoded.planes["scales"].astype(np.float64), 32, axis=1)[:, :100]
    decoded = onnxquant.decode(encoded)
    np.testing.assert_array_equal(decoded, (form.table().astype(np.float64)[encoded.planes["codes"]] * scales))
    assert np.abs(decoded - w).max() < 0.25 * np.abs(w).max()
    assert form.bits_per_weight == 4 + 8 * np.dtype(form.scale_dtype).itemsize / 32


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_planes_come_back_from_tiles(form: TableOfBytes) -> None:
    encoded = onnxquant.encode(graphs.weight(20, 100), form)
    layout = TilesLayout(form, View((20, 100), (0, 1)), 21)
    tensors = layout.pack(encoded)
    assert [t.dtype for t in tensors.values()] == [np.uint8, np.uint8 if form.name == "powers_of_two" else np.float16]
    back = layout.unpack(tensors)
    for name, plane in encoded.planes.items():
        assert back.planes[name].dtype == plane.dtype and back.planes[name].tobytes() == plane.tobytes()


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_results_of_solvers_keep_their_element_types(
    form: TableOfBytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry(), form.name, type(form))
    encoded = onnxquant.encode(graphs.weight(20, 100), form)
    jobs.write(tmp_path / "w.npz", encoded)
    back = jobs.read(tmp_path / "w.npz")
    assert {n: p.dtype for n, p in back.planes.items()} == {n: p.dtype for n, p in encoded.planes.items()}
    np.testing.assert_array_equal(onnxquant.decode(back), onnxquant.decode(encoded))


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("model", ["matmul", "gather"])
def test_bodies_compute_the_decoded_weight(form: TableOfBytes, model: str, tmp_path: Path) -> None:
    """There is no kernel for these formats: the model runs by its bodies, on onnxruntime alone."""
    proto = graphs.matmul(100, 50) if model == "matmul" else graphs.gather(50, 192)
    document = load(graphs.save(proto, tmp_path / "source.onnx"))
    site = find_sites(document)[0][0]
    encoded = form.encode(site.view.matrix(document.array(site.tensor)))
    decision = decide(site, form, Rule(target="custom"), document.opset)
    assert isinstance(decision, EncodeDecision), decision.reason
    with Publisher(tmp_path / "out.onnx", external=False, force=True) as publisher:
        lowering.write(document, Plan((decision,)), publisher, lambda _, decision: encoded)
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    value, weight = session.get_inputs()[0], form.decode(encoded)
    shape = [d if isinstance(d, int) else 3 for d in value.shape]
    if model == "gather":
        indices = graphs.rng(1).integers(0, 50, shape)
        got = session.run(None, {value.name: indices})[0]
        np.testing.assert_array_equal(got.reshape(-1, 192), weight[indices.reshape(-1)])
    else:
        x = graphs.rng(1).standard_normal(shape).astype(np.float32)
        got = session.run(None, {value.name: x})[0]
        np.testing.assert_allclose(got, x.astype(np.float64) @ weight.T, rtol=1e-4, atol=1e-4)
