"""A package outside onnxquant can add a format, a target with its layout, a solver, an observer and a pass.

The package is onnxquant_demo_extension beside this file. It is installed in the way that ``importlib.metadata`` looks for:
its folder, which holds a .dist-info folder, is on the path of a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import node, rng, weight

import onnxquant
from onnxquant.artifact.records import records
from onnxquant.errors import ModelError

FOLDER = Path(__file__).parent
# So many weights have a kernel of their own: target auto decodes smaller ones at load.
ROWS, COLS = 256, 272


def run(*steps: dict[str, Any], extension: bool = True) -> list[Any]:
    """Results of steps in one new process, with or without the extension."""
    paths = [str(Path(onnxquant.__file__).parents[1]), *([str(FOLDER)] if extension else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    program = [sys.executable, "-P", str(FOLDER / "run_steps.py")]
    done = subprocess.run(
        program, input=json.dumps(steps), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def command(*arguments: object) -> dict[str, Any]:
    return {"command": [str(a) for a in arguments]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two products behind an Identity, samples, and recipes."""
    folder = tmp_path_factory.mktemp("extension")
    constants = {"w": weight(COLS, ROWS), "v": weight(ROWS, COLS, seed=3)}
    nodes = [
        node("Identity", ["x"], ["same"]),
        node("MatMul", ["same", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "v"], ["y"], name="second"),
    ]
    proto = graphs.model(nodes, {"x": ("float32", ["batch", COLS])}, {"y": "float32"}, constants, 21)
    graphs.save(proto, folder / "m.onnx")
    np.savez(folder / "data.npz", x=rng(1).standard_normal((12, COLS)).astype(np.float32))
    (folder / "rules.toml").write_text(
        '[[rules]]\ninclude = "w"\nformat = "demo8"\ntarget = "demo"\nsolver = "demo-solver"\n'
    )
    (folder / "options.yaml").write_text("options: {format: demo8, target: demo, solver: demo-solver}\n")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """The results of all steps, by name."""
    model, data = folder / "m.onnx", folder / "data.npz"

    def quantize(name: str, *options: object) -> dict[str, Any]:
        return command("quantize", model, "-o", folder / f"{name}.onnx", "--data", data, "--json", *options)

    file = folder / "command.onnx"
    steps = {
        "list": command("list", "--json"),
        "command": quantize("command", "--format", "demo8", "--target", "demo", "--solver", "demo-solver", "--pass",
                            "demo-pass", "--save-recipe", folder / "saved.toml"),
        "auto": quantize("auto", "--no-proof", "--format", "demo8", "--include", "w"),
        "rules": quantize("rules", "--no-proof", "--recipe", folder / "rules.toml"),
        "options": quantize("options", "--no-proof", "--recipe", folder / "options.yaml"),
        "saved": quantize("saved", "--no-proof", "--recipe", folder / "saved.toml"),
        "static": quantize("static", "--no-proof", "--activations", "static", "--calibration-method", "demo-observer"),
        "keywords": {
            "source": str(model), "output": str(folder / "keywords.onnx"),
            "keywords": {"format": "demo8", "target": "demo", "solver": "demo-solver", "passes": ["demo-pass"],
                         "proof": False},
        },
        "wrong": quantize("wrong", "--format", "demo8", "--target", "dem"),
        "verify": command("verify", file),
        "validate": command("validate", model, file, "--data", data, "--json"),
        "info": command("info", file, "--json"),
        "diff": command("diff", file, folder / "saved.onnx", "--json"),
        "diff original": command("diff", model, file, "--json"),
        "dequantize": command("dequantize", file, "-o", folder / "float.onnx"),
    }  # fmt: skip
    return dict(zip(steps, run(*steps.values()), strict=True))


def report(results: dict[str, Any], name: str) -> dict[str, Any]:
    result = results[name]
    assert result["exit_code"] == 0, result
    out: dict[str, Any] = json.loads(result["output"][result["output"].index("{") :])
    return out


def test_list_shows_every_plug_in(results: dict[str, Any]) -> None:
    listed = report(results, "list")
    assert "demo8" in [f["name"] for f in listed["formats"]]
    assert "demo" in next(f["targets"] for f in listed["formats"] if f["name"] == "demo8")
    assert listed["targets"]["demo"].startswith("rows upside down")
    for kind, name in (("solvers", "demo-solver"), ("passes", "demo-pass"), ("calibration_methods", "demo-observer")):
        assert name in listed[kind], kind


@pytest.mark.parametrize("name", ["command", "options", "saved"])
def test_options_recipes_and_saved_recipes_are_accepted_alike(results: dict[str, Any], name: str) -> None:
    made = report(results, name)
    chosen = {(s["name"], s["format"], s["target"], s["solver"]) for s in made["sites"]}
    assert chosen == {("w", "demo8", "demo", "demo-solver"), ("v", "demo8", "demo", "demo-solver")}


def test_a_rule_of_a_recipe_names_plug_ins(results: dict[str, Any]) -> None:
    sites = {s["name"]: s for s in report(results, "rules")["sites"]}
    assert [sites["w"][k] for k in ("format", "target", "solver")] == ["demo8", "demo", "demo-solver"]
    assert sites["v"]["target"] != "demo"


def test_keywords_are_accepted(results: dict[str, Any]) -> None:
    assert results["keywords"] == {"passed": True, "targets": ["demo", "demo"]}


def test_auto_tries_a_target_by_its_rank(results: dict[str, Any]) -> None:
    sites = {s["name"]: s for s in report(results, "auto")["sites"]}
    assert sites["w"]["target"] == "demo" and sites["w"]["refusals"] == []
    assert sites["v"]["target"] is None


def test_an_observer_is_a_calibration_method(results: dict[str, Any]) -> None:
    activations = report(results, "static")["activations"]
    assert activations["method"] == "demo-observer"
    highest = float(rng(1).standard_normal((12, COLS)).max())
    assert 0.5 * highest < activations["tensors"]["x"]["high"] < 0.91 * highest


def test_a_pass_that_is_asked_for_runs(results: dict[str, Any], folder: Path) -> None:
    assert any("1 Identity nodes taken out" in note for note in report(results, "command")["notes"])
    assert all(n.op_type != "Identity" for n in onnx.load(folder / "command.onnx").graph.node)


def test_a_name_that_is_nearly_right_is_refused_with_the_plug_in_as_the_nearest(results: dict[str, Any]) -> None:
    wrong = results["wrong"]
    assert wrong["exit_code"] == 2 and "'demo'" in wrong["output"]


def test_a_file_is_verified_proven_and_described(results: dict[str, Any]) -> None:
    made = report(results, "command")
    assert made["passed"] and made["proof"]["outputs"] and not made["problems"]
    assert results["verify"]["exit_code"] == 0 and "4 of 4 tensors as written" in results["verify"]["output"]
    proof = report(results, "validate")
    assert proof["passed"] and set(proof["proof"]["weights"]) == {"w", "v"}
    described = report(results, "info")
    assert described["formats"] == {"demo8": 2} and described["targets"] == ["demo"]
    assert [t["bits"] for t in described["tensors"]] == [8, 8]


def test_files_are_compared(results: dict[str, Any]) -> None:
    same = json.loads(results["diff"]["output"])
    assert same["weights"] == {} and same["same_weights"] >= 2
    other = json.loads(results["diff original"]["output"])
    assert set(other["weights"]) == {"w", "v"} and all(w["sqnr_db"] > 30 for w in other["weights"].values())


def test_a_file_is_dequantized(results: dict[str, Any], folder: Path) -> None:
    assert results["dequantize"]["exit_code"] == 0, results["dequantize"]
    decoded = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "float.onnx").graph.initializer}
    for name, original in (("w", weight(COLS, ROWS)), ("v", weight(ROWS, COLS, seed=3))):
        scale = np.abs(original).max(axis=0) / 100
        assert np.all(np.abs(decoded[name] - original) < 0.7 * scale + 0.002 * np.abs(original).max())


def test_the_layout_of_the_extension_is_named_in_the_file(results: dict[str, Any], folder: Path) -> None:
    report(results, "command")
    assert {tuple(r.planes) for r in records(onnx.load(folder / "command.onnx"))} == {("demo_upside_down",)}


def test_without_the_extension_a_file_is_refused_in_one_sentence(results: dict[str, Any], folder: Path) -> None:
    report(results, "command")
    (result,) = run(command("dequantize", folder / "command.onnx", "-o", folder / "g.onnx"), extension=False)
    assert result["exit_code"] == 2 and "demo" in result["output"] and "Traceback" not in result["output"]
    (described,) = run(command("info", folder / "command.onnx", "--json"), extension=False)
    assert described["exit_code"] == 0, described
    contents = json.loads(described["output"])
    assert contents["formats"] == {"demo8": 2} and [t["bits"] for t in contents["tensors"]] == [None, None]
    assert any("demo8" in note for note in contents["notes"])
    with pytest.raises(ModelError, match="unknown layout"):
        onnxquant.dequantize(folder / "command.onnx", folder / "h.onnx")
