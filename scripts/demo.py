"""Quantize the embedded model to several formats, prove each, and print size, accuracy, error and speed."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import onnxquant

MODELS = Path(__file__).resolve().parents[1] / "models"
CHOICES: list[dict[str, Any]] = [
    {"format": "f16"},
    {"format": "int8"},
    {"format": "int4"},
    {"format": "int4", "target": "onnx"},
    {"format": "q8_0"},
    {"format": "q4_0"},
    {"format": "int2"},
    {"format": "i2_s"},
]


def accuracy(model: Path, images: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """Share of labelled images that a model gets right."""
    session = onnxquant.load(model)
    right = 0
    for start in range(0, len(images), 500):
        (logits,) = session.run(None, {"image": images[start : start + 500]})
        right += int((logits.argmax(1) == labels[start : start + 500]).sum())
    return right / len(images)


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODELS / "default.onnx")
    parser.add_argument("--out", type=Path, help="keep the quantized files in this folder")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = 150
    with np.load(MODELS / "default_test.npz") as data:
        images = (data["image"].astype(np.float32) / 255)[:, None]
        labels, calibration = data["label"], data["calibration"]
    feeds = [{"image": (c.astype(np.float32) / 255)[None, None]} for c in calibration[:8]]
    console.print(f"{arguments.model.name}: recognises handwritten digits; {len(images)} labelled test images")
    table = Table(box=box.SIMPLE_HEAD, title="Every row was written, opened again and proven", title_justify="left")
    for column in (
        "format",
        "target",
        "size",
        "smaller",
        "accuracy",
        "output SQNR",
        "latency",
        "vs float",
        "proof",
        "kernels",
    ):
        table.add_column(column, justify="left" if column in ("format", "target", "kernels", "proof") else "right")
    float_accuracy = accuracy(arguments.model, images, labels)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for i, choice in enumerate(CHOICES):
            with console.status(f"{choice['format']} ..."):
                name = "-".join(choice.values())
                output = folder / f"{arguments.model.stem}.{name}.onnx"
                report = onnxquant.quantize(arguments.model, output, data=feeds, samples=8, force=True, **choice)
                right = accuracy(output, images, labels)
            proof = report.proof
            assert proof and proof.latency
            if i == 0:
                seconds = proof.latency.seconds["original"]
                table.add_row("float32", "", f"{report.original_bytes / 1e3:.0f} kB", "1.00x", f"{float_accuracy:.2%}", "",
                              f"{1e6 * seconds:.0f} us", "1.00x")  # fmt: skip
            (deployed,) = proof.outputs["float vs deployed"].values()
            kernels = proof.kernels.library or proof.kernels.stock or {}
            picked = [f"{k.removeprefix('com.microsoft.')} {n}" for k, n in kernels.items() if _is_quantized(k)]
            targets = sorted({str(s.decision.target) for s in report.encoded})
            table.add_row(
                choice["format"], "+".join(targets), f"{(report.output_bytes or 0) / 1e3:.0f} kB",
                f"{proof.sizes.ratio:.2f}x", f"{right:.2%}", f"{deployed.sqnr_db:.1f} dB",
                f"{1e6 * proof.latency.seconds['quantized']:.0f} us", f"{proof.latency.ratio['quantized']:.2f}x",
                "[green]passed[/green]" if report.passed else "[red]FAILED[/red]", ", ".join(picked) or "folded to float",
            )  # fmt: skip
    console.print(table)
    console.print(
        "Next: [bold].venv/bin/onnxquant quantize YOUR_MODEL.onnx[/bold]   "
        "(i2_s is for networks trained ternary; here it shows what it does to others)"
    )


def _is_quantized(kernel: str) -> bool:
    return any(part in kernel for part in ("NBits", "BlockQuantized", "onnxquant."))


if __name__ == "__main__":
    main()
