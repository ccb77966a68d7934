"""Options as declarations: a new one is a field, and every place that names options follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import graphs
import pytest
from commands import refused, run
from conftest import ROOT

import onnxquant
from onnxquant.recipe.declaration import Scope, declared, kinds, option
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import RuleOptions

# Fields that no file of the package names: one in a rule, one in the file that is written, one path.
IN_A_RULE = '    shade: int | None = option(None, "Shade of a weight.", Scope.RULE, minimum=1)\n'
IN_THE_FILE = (
    '    hue: str = option("red", "Hue of all weights.", Scope.FILE, choices=lambda: ["red", "blue"])\n'
    '    palette: str | None = option(None, "Known hues.", Scope.RUN, metavar="FILE", is_path=any_path)\n'
)
PLACES = """
import importlib.util, json, sys
from pathlib import Path
import click
from click.shell_completion import ShellComplete
import graphs, onnx, onnxquant
from onnxquant.batch.config_file import config_schema, read
from onnxquant.cli import main
from onnxquant.errors import RecipeError
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options, option_schema
from onnxquant.recipe.rules import rule_schema
from onnxquant.report import schema

folder, script = Path(sys.argv[1]), Path(sys.argv[2])
model = graphs.save(graphs.matmul(64, 96), folder / "m.onnx")
recipe = folder / "in" / "r.toml"
recipe.parent.mkdir()
recipe.write_text("[options]\\nhue = 'blue'\\npalette = 'p.txt'\\n[[rules]]\\nshade = 3\\n")
options, rules = Options.of_recipe(read_recipe(recipe), {})
config = folder / "q.yaml"
config.write_text("shade: 4\\nmodels: [{input: m.onnx, hue: blue, palette: p.txt}]\\n")
job = read(config).jobs[0]
saved = folder / "plan.toml"
report = onnxquant.quantize(model, dry_run=True, hue="blue", shade=2, save_recipe=str(saved))
onnxquant.quantize(model, folder / "out.onnx", hue="blue", palette="p", shade=2, proof=False)
metadata = {e.key: e.value for e in onnx.load(folder / "out.onnx").metadata_props}
published = json.loads(schema.text())
spec = importlib.util.spec_from_file_location("reference", script)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)
offered = ShellComplete(main, {}, "onnxquant", "_ONNXQUANT_COMPLETE").get_completions

def message(call):
    try:
        call()
    except RecipeError as error:
        return str(error)

print(json.dumps({
    "help": {n: c.get_help(click.Context(c)) for n, c in main.commands.items()},
    "keyword": vars(Options.make({"hue": "blue", "shade": 2})),
    "wrong keyword": message(lambda: Options.make({"hue": "green"})),
    "recipe": vars(options), "rule": vars(rules.rules[0]),
    "wrong rule": message(lambda: Options.of_recipe({"rules": [{"shade": 0}]}, {})),
    "option schema": option_schema()["properties"], "rule schema": rule_schema()["properties"],
    "config schema": config_schema()["properties"],
    "model schema": config_schema()["properties"]["models"]["items"]["properties"],
    "config": vars(job.settings()[0]),
    "saved recipe": saved.read_text(), "origin": json.loads(metadata["onnxquant.origin"]),
    "reported options": published["properties"]["asked"]["properties"]["options"]["properties"],
    "reported rules": published["$defs"]["rule"]["properties"], "report": report.to_dict()["asked"],
    "reference": reference.text(),
    "completed hues": [item.value for item in offered(["quantize", "m.onnx", "--hue"], "b")],
    "completed files": [item.type for item in offered(["quantize", "m.onnx", "--palette"], "p")],
}, default=str))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every place that shows options, in a copy of the package with three more fields."""
    folder = tmp_path_factory.mktemp("copy")
    package = folder / "onnxquant"
    shutil.copytree(Path(onnxquant.__file__).parent, package, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, before, lines in (("rules", "    compute: str", IN_A_RULE), ("fields", "    whole_graph: bool", IN_THE_FILE)):
        path = package / "recipe" / f"{name}.py"
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, lines + before))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "tests")])}
    command = [sys.executable, "-c", PLACES, str(folder), str(ROOT / "scripts" / "reference.py")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout), folder=str(folder))


FOLLOWS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "command line": lambda p: all(
        f"{flag} " in p["help"][c] for flag in ("--hue [red|blue]", "--shade", "--palette") for c in ("quantize", "batch")
    ),
    "keyword": lambda p: (p["keyword"]["hue"], p["keyword"]["shade"]) == ("blue", 2),
    "check of a keyword": lambda p: p["wrong keyword"] == "hue is 'green'; did you mean 'red'?",
    "options of a recipe": lambda p: p["recipe"]["hue"] == "blue",
    "path in a recipe": lambda p: p["recipe"]["palette"] == f"{p['folder']}/in/p.txt",
    "rule of a recipe": lambda p: p["rule"]["shade"] == 3,
    "check of a rule": lambda p: p["wrong rule"] == "recipe, rule 1: shade is 0, expected at least 1",
    "schema of options": lambda p: p["option schema"]["hue"]["enum"] == ["red", "blue"],
    "schema of rules": lambda p: p["rule schema"]["shade"]["minimum"] == 1 and "hue" not in p["rule schema"],
    "schema of configuration files": lambda p: all(
        name in p[place] for name in ("hue", "palette", "shade") for place in ("config schema", "model schema")
    ),
    "configuration file": lambda p: (p["config"]["hue"], p["config"]["shade"]) == ("blue", 4),
    "path in a configuration file": lambda p: p["config"]["palette"] == f"{p['folder']}/p.txt",
    "saved recipe": lambda p: 'hue = "blue"' in p["saved recipe"] and "shade = 2" in p["saved recipe"],
    "origin of a file": lambda p: p["origin"]["options"] == {"hue": "blue"} and p["origin"]["rules"] == [{"shade": 2}],
    "schema of reports": lambda p: {"hue", "shade"} <= set(p["reported options"]) and "shade" in p["reported rules"],
    "report": lambda p: p["report"]["options"]["hue"] == "blue" and p["report"]["recipe"][0]["shade"] == 2,
    "reference page": lambda p: all(f"| `{name}` |" in p["reference"] for name in ("hue", "shade", "palette")),
    "flags of the reference page": lambda p: "`--hue [red\\|blue]`" in p["reference"],
    "completion of choices": lambda p: p["completed hues"] == ["blue"],
    "completion of files": lambda p: p["completed files"] == ["file"],
}  # fmt: skip


@pytest.mark.parametrize("place", FOLLOWS)
def test_a_new_field_is_in(place: str, places: dict[str, Any]) -> None:
    assert FOLLOWS[place](places)


@pytest.mark.parametrize("name", [spec.name for spec in fields(Options) if spec.name != "parameters"])
def test_every_field_of_options_declares_a_scope(name: str) -> None:
    assert declared(Options)[name].declared.scope in Scope


def test_options_of_rules_are_those_with_the_scope_of_rules() -> None:
    in_rules = {name for name, spec in declared(Options).items() if spec.declared.scope is Scope.RULE}
    assert in_rules == set(declared(RuleOptions))


def test_an_option_without_a_scope_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="scope"):
        option(None, "Text.")  # type: ignore[call-arg]


def test_a_type_that_no_file_can_hold_is_refused() -> None:
    assert kinds(str | float | None) == ("string", "number")
    with pytest.raises(TypeError, match=r"no JSON Schema for a field of type .*complex"):
        kinds(complex | None)


def test_a_saved_recipe_with_an_infinite_threshold_is_read_again(tmp_path: Path) -> None:
    model, path = graphs.save(graphs.matmul(64, 96), tmp_path / "m.onnx"), tmp_path / "r.toml"
    given = ("quantize", model, "--no-proof", "--summary")
    first = run(*given, "-o", tmp_path / "a.onnx", "--format", "llm_int8", "--threshold", "inf", "--save-recipe", path)
    assert first.exit_code == 0, first.output
    assert "threshold = inf" in path.read_text()
    again = run(*given, "-o", tmp_path / "b.onnx", "--recipe", path)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "a.onnx").stat().st_size == pytest.approx((tmp_path / "b.onnx").stat().st_size, abs=1024)


def test_a_name_of_a_target_that_rules_cannot_ask_for_is_refused(tmp_path: Path) -> None:
    model = graphs.save(graphs.matmul(64, 96), tmp_path / "m.onnx")
    refused(run("quantize", model, "--target", "qdq"), "--target", "'qdq'", "custom")
