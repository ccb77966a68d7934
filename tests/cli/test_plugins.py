"""Formats, targets, solvers and calibration methods of another package, found through its entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import pytest

import onnxquant
from onnxquant import registry, solvers
from onnxquant.errors import RecipeError
from onnxquant.solvers.base import Solver
from onnxquant.solvers.rtn import Rtn

CODE = '''
from dataclasses import dataclass
from onnxquant.formats.ggml.q8_0 import Q8_0
from onnxquant.observers.minmax import MinMax
from onnxquant.solvers.rtn import Rtn
from onnxquant.targets.onnx import Onnx

@dataclass(frozen=True)
class Format(Q8_0):
    """Blocks of somebody else."""
    name = "their_format"

@dataclass(frozen=True)
class Solver(Rtn):
    """Rounding by somebody else."""
    name = "their_solver"

class Target(Onnx):
    """Operators of somebody else."""
    name = "their_target"
    summary = "operators of somebody else"

class Method(MinMax):
    """Extremes by somebody else."""
    name = "their_method"
'''
ENTRY_POINTS = """
[onnxquant.formats]
one = theirs:Format
[onnxquant.solvers]
one = theirs:Solver
[onnxquant.targets]
one = theirs:Target
[onnxquant.observers]
one = theirs:Method
"""
OPTION_OF = {
    "format": "their_format", "solver": "their_solver", "target": "their_target", "calibration_method": "their_method",
}  # fmt: skip
PLACES = """
import json, sys
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from onnxquant.batch.config_file import config_schema
from onnxquant.cli import main
from onnxquant.recipe.options import Options, option_schema
from onnxquant.recipe.rules import rule_schema

names, model = json.loads(sys.argv[1]), sys.argv[2]
offered = ShellComplete(main, {}, "onnxquant", "_ONNXQUANT_COMPLETE").get_completions
flag = lambda name: "--" + name.replace("_", "-")
typed = [word for name, value in names.items() if name != "calibration_method" for word in (flag(name), value)]
plan = CliRunner().invoke(main, ["quantize", model, "--dry-run", "--json", *typed])
print(json.dumps({
    "list": json.loads(CliRunner().invoke(main, ["list", "--json"]).stdout),
    "list, as shown": CliRunner().invoke(main, ["list"]).stdout,
    "completion": {n: [i.value for i in offered(["quantize", "m.onnx", flag(n)], "their")] for n in names},
    "keyword": {n: getattr(Options.make({n: v, "activations": "static"} if n == "calibration_method" else {n: v}), n)
                for n, v in names.items()},
    "schemas": {n: [s["properties"][n]["enum"] for s in (option_schema(), config_schema())] for n in names},
    "schema of rules": {n: rule_schema()["properties"].get(n, {}).get("enum", []) for n in names},
    "plan": plan.output,
}))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every place that shows choices, in a process that finds the other package."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "theirs.py").write_text(CODE)
    about = folder / "theirs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    model = graphs.save(graphs.matmul(64, 96, opset=21), folder / "m.onnx")
    command = [sys.executable, "-c", PLACES, json.dumps(OPTION_OF), str(model)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path(onnxquant.__file__).parents[1])])}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_list_shows_what_other_packages_register(places: dict[str, Any]) -> None:
    listed = places["list"]
    assert "their_format" in [form["name"] for form in listed["formats"]]
    assert listed["solvers"]["their_solver"]["summary"].startswith("Rounding by somebody else")
    assert listed["targets"]["their_target"] == "operators of somebody else"
    assert listed["calibration_methods"]["their_method"] == "Extremes by somebody else"
    for line in ("\ntheir_target ", "\ntheir_solver ", "\ntheir_method "):
        assert line in places["list, as shown"]


@pytest.mark.parametrize("name", OPTION_OF)
def test_choices_have_what_other_packages_register(name: str, places: dict[str, Any]) -> None:
    value = OPTION_OF[name]
    assert places["keyword"][name] == value
    assert places["completion"][name] == [value]
    assert all(value in choices for choices in places["schemas"][name])
    assert (value in places["schema of rules"][name]) is (name != "calibration_method")


def test_a_plan_uses_what_other_packages_register(places: dict[str, Any]) -> None:
    assert places["plan"].startswith("{"), places["plan"]
    (site,) = (s for s in json.loads(places["plan"])["sites"] if s["format"])
    assert (site["format"], site["target"], site["solver"]) == ("their_format", "their_target", "their_solver")


def test_two_classes_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Rtn):
        """Another one."""

    monkeypatch.setattr("onnxquant.solvers.mse.Other", Other, raising=False)
    with pytest.raises(RecipeError, match=r"onnxquant\.solvers: .*Rtn and .*Other are both called 'rtn'"):
        registry.classes(solvers, Solver, "onnxquant.solvers")


def _command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(folder), str(Path(onnxquant.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "onnxquant", *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package whose formats cannot be imported."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "theirs.py").write_text('raise OSError("no such\\nsetting")\n')
    metadata = folder / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[onnxquant.formats]\none = theirs:Format\n")
    return folder


BROKEN = (
    "entry point one = theirs:Format of theirs in onnxquant.formats cannot be loaded: OSError: no such setting; "
    "repair or uninstall that package\n"
)


def test_a_broken_plug_in_is_one_error(broken: Path) -> None:
    done = _command(broken, "quantize", "m.onnx")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"onnxquant: error: {BROKEN}")


@pytest.mark.parametrize("arguments", [["quantize", "--help"], ["list"]])
def test_help_and_list_work_beside_a_broken_plug_in(arguments: list[str], broken: Path) -> None:
    done = _command(broken, *arguments)
    assert (done.returncode, done.stderr) == (0, f"onnxquant: warning: {BROKEN}")
    assert "q4_0" in done.stdout


def test_commands_without_plug_ins_work_beside_a_broken_one(broken: Path) -> None:
    assert _command(broken, "--version").stdout.startswith("onnxquant, version")
    assert _command(broken, "verify", "no.onnx").stderr == "onnxquant: error: no.onnx: no such file\n"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_while_the_command_starts_is_quiet(tmp_path: Path) -> None:
    """Another module called onnx stands for an import that takes long."""
    (tmp_path / "onnx.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(99)\n")
    done = _command(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
