"""Targets declare the layouts that they store planes in, so that every file that is written can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import graphs
import pytest

import onnxquant
from onnxquant.errors import ModelError, RecipeError
from onnxquant.targets import layout_types
from onnxquant.targets.layouts.rows import RowsLayout
from onnxquant.targets.onnx import Onnx
from onnxquant.targets.ort import Ort


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    layout_types.cache_clear()
    yield
    layout_types.cache_clear()


def test_the_names_of_layouts_in_files_never_change() -> None:
    names = {"rows", "columns", "table", "tiles", "channels", "transposed", "dense", "bnb4", "recurrent"}
    assert set(layout_types()) == names


def test_nothing_is_written_in_a_layout_that_no_target_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ort, "layout_types", ())
    model = graphs.save(graphs.matmul(64, 48), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="target ort does not declare its layout 'rows'"):
        onnxquant.quantize(model, tmp_path / "out.onnx", format="int4", target="ort")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_two_layouts_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(RowsLayout):
        """Another layout."""

    monkeypatch.setattr(Onnx, "layout_types", (Other,))
    with pytest.raises(RecipeError, match="another target has a layout called 'rows'"):
        layout_types()
