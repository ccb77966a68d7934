"""The best file of the embedded model for each goal, from one search, beside the float model: size, speed and answers."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import onnxquant
from onnxquant.report.data import Attempt
from onnxquant.report.table import Table, say
from onnxquant.report.units import milliseconds, size, times

MODELS = Path(__file__).resolve().parents[1] / "models"
# Samples of the search, and samples that are run at once where answers are counted.
SAMPLES, BATCH = 64, 500


@dataclass(frozen=True)
class File:
    """A file of the table.

    Attributes:
        goals: the goals that it is the best for; empty: it was asked for by its format.
        way: the way in which it was made.
        path: the file.
    """

    goals: tuple[str, ...]
    way: str
    path: Path


def _smaller(attempt: Attempt) -> float:
    return (attempt.verdict.smaller if attempt.verdict else None) or 0.0


def _faster(attempt: Attempt) -> float:
    return (attempt.verdict.faster if attempt.verdict else None) or 1.0


# The measure of the goals beside the one that the search has.
GOALS: Mapping[str, Callable[[Attempt], float]] = {
    "small": _smaller,
    "balanced": lambda attempt: _smaller(attempt) * _faster(attempt),
}


def answers(model: Path, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """The digit that a model reads in each image."""
    session = onnxquant.load(model)
    parts = [session.run(None, {"image": images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)]
    digits: NDArray[np.int64] = np.concatenate(parts).argmax(1)
    return digits


def best_files(model: Path, folder: Path, data: Sequence[Mapping[str, Any]], effort: str) -> list[File]:
    """The best file for each goal: one search chooses the fastest, and tries what is best for the others, too."""
    path = folder / f"{model.stem}.fast.onnx"
    report = onnxquant.quantize(model, path, data=data, goal="fast", effort=effort, force=True)
    assert report.choice
    chosen = next(a for a in report.choice.attempts if a.way == report.choice.chosen)
    front = [a for a in report.choice.attempts if a.pareto] or [chosen]
    goals = {chosen.way: ["fast"]}
    for goal, measure in GOALS.items():
        goals.setdefault(max(front, key=measure).way, []).append(goal)
    files = []
    for attempt in report.choice.attempts:
        if attempt.way not in goals:
            continue
        output = folder / f"{model.stem}.{goals[attempt.way][0]}.onnx"
        if attempt is not chosen:
            options: dict[str, Any] = {**attempt.options, "samples": 16, "force": True}
            onnxquant.quantize(model, output, data=data, **options)
        files.append(File(tuple(goals[attempt.way]), attempt.way, output))
    return files


def table_of(model: Path, files: Sequence[File], images: NDArray[np.float32]) -> Table:
    """Files beside the float model; times are medians of one run in which all files take turns."""
    rows = onnxquant.benchmark(model, *(file.path for file in files), data={"image": images[:1]})
    expected = answers(model, images)
    out = Table("", "goal", "best file", ">size", ">smaller", ">a call", ">faster", ">same")
    out.add_row("", "float32", size(rows[0].bytes), "", milliseconds(rows[0].seconds), "", "")
    cells = {}
    for file, row in zip(files, rows[1:], strict=True):
        same = float((answers(file.path, images) == expected).mean())
        cells[file] = (
            file.way, size(row.bytes), times(rows[0].bytes / row.bytes), milliseconds(row.seconds),
            times(rows[0].seconds / row.seconds), f"{same:.2%}",
        )  # fmt: skip
    for goal in ("fast", *GOALS):
        for file in files:
            if goal in file.goals:
                out.add_row(goal, *cells[file])
    for file in files:
        if not file.goals:
            out.add_row("", *cells[file])
    return out


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODELS / "default.onnx")
    parser.add_argument("--out", type=Path, help="keep the quantized files in this folder")
    parser.add_argument("--effort", default="low", choices=("low", "medium", "high"), help="time of the search")
    parser.add_argument("--format", action="append", default=[], dest="formats", help="a row for this format, too")
    arguments = parser.parse_args()
    console = Console(highlight=False, width=shutil.get_terminal_size().columns)
    with np.load(MODELS / "default_test.npz") as data:
        images, calibration = ((data[name].astype(np.float32) / 255)[:, None] for name in ("image", "calibration"))
    samples = [{"image": image[None]} for image in calibration[:SAMPLES]]
    say(console, f"{arguments.model.name} reads handwritten digits. The ways that suit it are tried on {SAMPLES} images, as")
    say(console, f"`onnxquant quantize {arguments.model.name} --data IMAGES` does:")
    console.print()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with console.status("searching ..."):
            files = best_files(arguments.model, folder, samples, arguments.effort)
            for name in arguments.formats:
                path = folder / f"{arguments.model.stem}.{name}.onnx"
                onnxquant.quantize(arguments.model, path, format=name, data=samples, samples=16, force=True)
                files.append(File((), f"{name} weights", path))
            table = table_of(arguments.model, files, images)
    console.print(table)
    say(console, f"same: answers on {len(images)} other images that are those of float32. Every file is proven.")
    say(console, "onnxquant quantize YOUR_MODEL.onnx --data SAMPLES", label="next: ")


if __name__ == "__main__":
    main()
