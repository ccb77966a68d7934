"""Recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

import graphs
import pytest
from commands import refused, run
from conftest import ROOT
from graphs import node, weight

from onnxquant import quantize
from onnxquant.errors import RecipeError
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


NINES = "9" * 5000
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)) + "rules: *a59\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.toml", f"bits = {NINES}", "a whole number of more digits than the 100"),
        ("r.toml", f"bits = {NINES[:80]}", "a whole number of 266 bits"),
        ("r.yaml", f"bits: {NINES}", "a whole number of 5000 characters"),
        ("r.yaml", f"rules: [{{block_size: 0x{NINES}}}]", "a whole number of 5002 characters"),
        ("r.yaml", "bits: " + ":".join(["59"] * 4000), "a whole number of 11999 characters"),
        ("r.yaml", BOMB, "its aliases repeat more than 100000 values"),
        ("r.yaml", "rules: &rules [*rules]", "an alias stands for something that holds it"),
        ("r.yaml", "rules: " + "[" * 5000, "recursion"),
        ("r.yaml", "# " + "x" * (1 << 20), "1048578 bytes, expected at most 1048576"),
        ("r.yaml", "\n".join(f"k{i}: 1" for i in range(3)) + "\nk0: 2", "key 'k0' is given twice"),
    ],
    ids=lambda text: text[:20],
)
def test_hostile_files_are_refused_in_one_short_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(path)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_aliases_and_merge_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("rules:\n- &first {format: int4}\n- {<<: *first, include: w}\n")
    assert read_recipe(path)["rules"][1] == {"format": "int4", "include": "w"}
