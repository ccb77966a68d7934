"""What commands print: lines no longer than the terminal, nothing behind their ends, the verdict first."""

from __future__ import annotations

import io
from pathlib import Path

import graphs
import pytest
from commands import run
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from onnxquant.cli.shared import _Stages
from onnxquant.report.data import Attempt, Choice, Verdict
from onnxquant.report.report import Report
from onnxquant.report.state import State
from onnxquant.report.table import Table
from onnxquant.report.terminal import show

WIDTHS = (40, 80, 100, 160)
REASONS = ("the op reads both operands as activations, so that no kernel computes on integers", "too small to gain")


def printed(content: object, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(content)
    return stream.getvalue().splitlines()


def table_of(rows: int, *, distinct: bool) -> Table:
    out = Table(f"Weights of a model whose {REASONS[0]}", "weight", "format", ">bytes", "target", ">bits", "role", "~why")
    for i in range(rows):
        why = f"{i}: {REASONS[0]}" if distinct else REASONS[i % 2]
        out.add_row(f"model.encoder.layers.{i}.attention.query.weight", "int8", f"{i} kB", "ort", "8.50", "matmul", why)
    return out


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_of_a_table_is_longer_than_the_terminal_or_ends_in_blanks(width: int, distinct: bool) -> None:
    lines = printed(table_of(12, distinct=distinct), width)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if line != line.rstrip()]


def test_reasons_of_many_rows_stand_once_under_the_table_where_they_do_not_fit() -> None:
    lines = printed(table_of(12, distinct=False), 80)
    assert sum("too small to gain" in line for line in lines) == 1
    assert [line[-2:] for line in lines if ".weight" in line] == [" 1", " 2"] * 6
    assert sum("too small to gain" in line for line in printed(table_of(12, distinct=False), 160)) == 6


def test_a_name_that_is_too_long_keeps_its_end() -> None:
    row = next(line for line in printed(table_of(12, distinct=False), 80) if ".weight" in line)
    assert row.startswith("model") and row.split()[0].endswith(".weight") and "int8" in row


def test_columns_that_do_not_fit_are_named() -> None:
    text = " ".join(printed(table_of(12, distinct=False), 40))
    assert "more columns on a wider terminal" in text and "role" in text


def test_columns_that_stay_are_shown_in_any_width() -> None:
    out = Table("", "way", ">size", "+>faster", ">quality", ">same", "+outcome")
    names = ["static convolutions, dynamic products", "static convolutions, int8 weights of products"]
    for name in names:
        out.add_row(name, "343.5 kB", "1.65x", "38.9 dB", "12345 of 12500", "loses too much")
    lines = {width: printed(out, width) for width in (40, 80, 120)}
    assert all("1.65x" in row and row.endswith("loses too much") for rows in lines.values() for row in rows[1:3])
    shortened = ["static…", "static convolutions, int8 weights of…", names[1]]
    assert [rows[2].split("  ")[0] for rows in lines.values()] == shortened
    assert "quality" in lines[80][0] and "same" in lines[80][-1], "the last columns are left out first"


def test_columns_without_a_value_are_not_shown_and_names_are_no_markup() -> None:
    out = Table("", "name", "empty", ">value")
    out.add_row("[red]x[/red]", "", Text("1", "red"))
    assert printed(out, 80) == ["name          value", "[red]x[/red]      1"]


def test_wide_characters_take_two_places() -> None:
    out = Table("", "name", ">value")
    out.add_row("重み" * 30, "1")
    out.add_row("w", "2")
    lines = printed(out, 40)
    assert Text(lines[1]).cell_len <= 40 and lines[1].endswith(" 1")


def test_the_choice_among_ways_takes_eight_rows_and_names_refusals_under_them() -> None:
    verdict = Verdict(State.PASSED, 3.76, 1.95, 31.2, "scores", 50, 54, "", None, 24.0, 497, 500, "top classes")
    names = [f"way {i} of static int8 with some kernels in float" for i in range(9)]
    attempts = [Attempt(name, {}, 1.0, 1000, verdict, "slower") for name in names]
    attempts.append(Attempt("dynamic int8", {}, 0.0, objection=REASONS[0]))
    report = Report("a.onnx", "b.onnx", original_bytes=4000, output_bytes=1000)
    bound = "the worst output keeps 20 dB, and 99 % of the answers stay the same"
    report.choice = Choice("fast", bound, True, attempts[3].way, tuple(attempts))
    stream = io.StringIO()
    show(report, Console(file=stream, width=80), verbose=False)
    lines = stream.getvalue().splitlines()
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("way  ")) + 1 :]
    assert rows[0].startswith("way 3") and "chosen" in rows[0] and rows[8] == "2 more with -v"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("environment", "width"), [({}, 80), ({"COLUMNS": "100"}, 100), ({"TERM": "dumb", "COLUMNS": "60"}, 60)]
)
def test_a_result_says_what_matters_in_few_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], width: int
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    graphs.save(graphs.matmul(256, 96), tmp_path / "model.onnx")
    result = run("quantize", "model.onnx", "--samples", 1, "--report", ".html")
    lines = result.output.splitlines()
    assert lines[0].split()[-1] == "model.int8.onnx" and lines[0].split()[0].isupper()
    assert len(lines) <= 20  # 17 and a line or two where the machine is busy
    assert max(map(len, lines)) <= width and not [line for line in lines if line != line.rstrip()]
    subjects = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert subjects[:4] == ["size", "speed", "quality", "samples"] and subjects[-2:] == ["next", "report"]
    assert "average MSE" in result.output and "model.int8.html" in result.output
    for word in ("twin", "SQNR", "deployed", "site"):
        assert word not in result.output
    compared = run("validate", "model.onnx", "model.int8.onnx", "--samples", 1).output
    assert "  nodes " in compared and "weights lowered by onnxquant" in " ".join(compared.split())


def test_a_stage_begins_with_an_empty_bar() -> None:
    bars = Progress(console=Console(file=io.StringIO()))
    stages = _Stages(bars)
    for stage, done in (("calibrating", 0.5), ("calibrating", 1.0), ("correcting biases", 0.0), ("speed", 0.0)):
        stages(stage, done)
        (task,) = bars.tasks
        assert (task.description, task.total, task.completed) == (stage, 1.0 if done else None, done)
