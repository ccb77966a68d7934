"""Completion, in a real bash, and the pages and helps that are made from the commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from commands import refused, run
from conftest import ROOT

from onnxquant.cli import main
from onnxquant.formats import registry
from onnxquant.recipe.files import shipped
from onnxquant.recipe.options import option_schema
from onnxquant.recipe.rules import rule_schema
from onnxquant.solvers import registry as solvers


def completed(folder: Path, *cases: str) -> list[list[str]]:
    """What bash offers for the last word of each command line."""
    program = folder / "onnxquant"
    program.write_text(f"#!{sys.executable}\nfrom onnxquant.cli import main\nmain(prog_name='onnxquant')\n")
    program.chmod(0o755)
    lines = [f'PATH="{folder}:$PATH"', 'eval "$(onnxquant completion bash)"', "compopt() { echo files; }"]
    for case in cases:
        words = case.split(" ")
        quoted = " ".join(f"'{w}'" for w in words)
        lines += [f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMPREPLY=()", "_onnxquant_completion onnxquant",
                  'echo "${COMPREPLY[@]}"; echo ---']  # fmt: skip
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return [part.split() for part in done.stdout.split("---\n")[:-1]]


def test_bash_completes_names_and_files(tmp_path: Path) -> None:
    recipes, model = completed(tmp_path, "onnxquant batch --recipe q", "onnxquant quantize mod")
    assert set(recipes) == {"files", "q4-mixed", "q5-mixed"}
    assert model == ["files"]


def test_commands_options_and_choices() -> None:
    offered = ShellComplete(main, {}, "onnxquant", "_ONNXQUANT_COMPLETE").get_completions

    def values(*words: str) -> list[str]:
        return [item.value for item in offered(list(words[:-1]), words[-1])]

    assert values("va") == ["validate"] and values("batch", "--skip") == ["--skip-existing"]
    assert values("quantize", "--format", "q4") == [name for name in registry() if name.startswith("q4")]
    assert values("quantize", "m.onnx", "--solver", "") == ["auto", *solvers()]
    assert {i.type for i in offered(["quantize", "m.onnx", "--work"], "x")} == {"file"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str) -> None:
    text = run("completion", shell).output
    assert f"_ONNXQUANT_COMPLETE={shell}_complete" in text and "%(" not in text


def test_every_help_has_examples_that_name_real_options() -> None:
    for name, command in main.commands.items():
        text = run(name, "--help").output
        assert "Examples:" in text, name
        for line in (command.help or "").partition("Examples:")[2].splitlines():
            called = re.search(r"onnxquant (\S+) (.*)", line)
            if called:
                assert called[1] in main.commands, line
                known = {o for p in main.commands[called[1]].params for o in (*p.opts, *p.secondary_opts)}
                assert set(re.findall(r"(?<!\S)--[a-z-]+", called[2])) <= known, line


def test_the_reference_is_current_and_complete() -> None:
    script = ROOT / "scripts" / "reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "docs" / "reference.md").read_text()
    for command in main.commands.values():
        section = text.partition(f"\n### {command.name}\n")[2].partition("\n### ")[0]
        for option in command.params:
            if isinstance(option, click.Option):
                assert f"{max(option.opts, key=len)}" in section, (command.name, option.name)
    for key in (
        *rule_schema()["properties"],
        *option_schema()["properties"],
        "models",
        "batch",
        "skip_existing",
        "input_dir",
    ):
        assert f"`{key}`" in text, key
    solver_page = (ROOT / "docs" / "solvers.md").read_text()
    assert all(name in solver_page for name in shipped())


def test_without_a_shell() -> None:
    refused(run("completion"), "onnxquant: error: missing argument", "bash")
