"""Defects planted on purpose: each must be caught, by the proof or by an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant.targets import layouts

Array = NDArray[Any]
Pack = Callable[[Any, str, Any], Array]


def swapped_nibbles(values: Array) -> Array:
    return (values << np.uint8(4) | values >> np.uint8(4)).astype(np.uint8)


def scales_shifted_by_a_block(values: Array) -> Array:
    return np.roll(values, 1, axis=-1)


def transposed_codes(values: Array) -> Array:
    return np.ascontiguousarray(values.reshape(256, -1).T).reshape(values.shape)


def codes_off_by_one(values: Array) -> Array:
    return (values + np.uint8(0x11)).astype(np.uint8)


def rows_swapped(values: Array) -> Array:
    return np.ascontiguousarray(values[::-1])


MUTATIONS = [
    ("codes", swapped_nibbles),
    ("codes", transposed_codes),
    ("codes", codes_off_by_one),
    ("codes", rows_swapped),
    ("scales", scales_shifted_by_a_block),
    ("scales", rows_swapped),
]
LAYOUTS = {"ort": layouts.Rows, "onnx": layouts.Columns, "custom": layouts.Tiles}


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize(("plane", "mutate"), MUTATIONS, ids=lambda v: getattr(v, "__name__", v))
def test_a_planted_defect_fails_the_proof(
    target: str, plane: str, mutate: Callable[[Array], Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = graphs.save(graphs.matmul(256, 256, opset=21), tmp_path / "source.onnx")
    layout: Any = LAYOUTS[target]
    sound: Pack = layout.pack
    assert onnxquant.quantize(source, tmp_path / "sound.onnx", format="q4_0", target=target).passed

    def broken(self: Any, name: str, encoded: Any) -> Array:
        values = sound(self, name, encoded)
        return mutate(values) if name == plane else values

    # The reader keeps the sound order, so what it decodes is what a wrong file says; the twin shows the damage to the
    # weight, the kernels' reading of the file the rest.
    monkeypatch.setattr(layout, "pack", broken)
    report = onnxquant.quantize(source, tmp_path / "broken.onnx", format="q4_0", target=target, min_sqnr=15.0)
    assert not report.passed
    (weight,) = report.proof.weights.values()  # type: ignore[union-attr]
    (site,) = report.encoded
    assert float(weight["sqnr_db"]) < float(site.error["sqnr_db"]) - 6


@pytest.mark.parametrize("target", LAYOUTS)
def test_an_order_wrong_both_ways_is_caught_by_the_twin(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packer and reader agree on a wrong nibble order: only the runtime's reading of the file can tell."""
    source = graphs.save(graphs.matmul(256, 256, opset=21), tmp_path / "source.onnx")

    def pack(codes: Array, bits: int) -> Array:
        first, second = codes[..., 0::2], codes[..., 1::2]
        return (first << np.uint8(4) | second).astype(np.uint8)

    def unpack(packed: Array, bits: int, count: int) -> Array:
        return np.stack([packed >> np.uint8(4), packed & np.uint8(15)], axis=-1).reshape(*packed.shape[:-1], -1)[
            ..., :count
        ]

    monkeypatch.setattr(layouts, "pack", pack)
    monkeypatch.setattr(layouts, "unpack", unpack)
    report = onnxquant.quantize(source, tmp_path / "broken.onnx", format="q4_0", target=target)
    assert not report.passed
    assert any("twin vs" in p and "expected 100" in p for p in report.proof.problems)  # type: ignore[union-attr]


def test_a_wrong_kernel_is_told_from_a_coarse_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """float vs twin stays what the format costs; twin vs file shows the defect."""
    source = graphs.save(graphs.matmul(256, 256), tmp_path / "source.onnx")
    report = onnxquant.quantize(source, tmp_path / "out.onnx", format="int2", target="ort")
    assert report.passed
    outputs = report.proof.outputs  # type: ignore[union-attr]
    coarse = float(outputs["float vs twin"]["y"]["sqnr_db"])
    assert 3 < coarse < 15
    assert float(outputs["twin vs exact"]["y"]["sqnr_db"]) > 100
