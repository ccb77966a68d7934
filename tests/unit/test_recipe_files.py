"""Recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest
from commands import refused, run
from conftest import ROOT
from graphs import node, weight

from onnxquant import quantize
from onnxquant.recipe.files import read_recipe, shipped
from onnxquant.recipe.rules import Recipe


@pytest.mark.parametrize("name", [name for name in sorted(shipped()) if name.endswith("-mixed")])
def test_tables_and_heads_keep_more_bits(name: str, tmp_path: Path) -> None:
    made = [
        node("Gather", ["embed", "ids"], ["x"], name="/model/embed_tokens/Gather"),
        node("MatMul", ["x", "w"], ["h"], name="/model/layers.0/mlp/MatMul"),
        node("MatMul", ["h", "out"], ["logits"], name="/lm_head/MatMul"),
    ]
    constants = {"embed": weight(512, 256), "w": weight(256, 256), "out": weight(256, 512)}
    proto = graphs.model(made, {"ids": ("int64", [1, 4])}, {"logits": "float32"}, constants, opset=21)
    report = quantize(proto, tmp_path / "out.onnx", recipe=name)
    assert report.passed
    bits = {s.decision.name: s.decision.format.bits for s in report.encoded if s.decision.format}
    assert bits["embed"] == bits["out"] == 8 and bits["w"] in (4, 5)


def test_each_says_what_it_is_and_is_documented() -> None:
    text = (ROOT / "docs" / "solvers.md").read_text()
    for name, path in shipped().items():
        assert path.read_text().startswith("# ") and f"`{name}`" in text.replace("--recipe ", "")
        Recipe.from_dict(read_recipe(name))


def test_a_name_that_is_none(tmp_path: Path) -> None:
    path = graphs.save(graphs.matmul(), tmp_path / "model.onnx")
    refused(run("quantize", path, "--recipe", "q4-mixd"), "no such file, nor a recipe of that name", "q4-mixed")
