"""``onnxquant benchmark``."""

from __future__ import annotations

import click

from onnxquant.cli.options import model_options
from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.inspect.benchmark import BenchmarkRow
from onnxquant.inspect.benchmark import benchmark as benchmark_models
from onnxquant.json_data import to_json
from onnxquant.report.table import say
from onnxquant.report.terminal import table
from onnxquant.report.units import milliseconds, size, speed, times


@click.command(short_help="Compare sizes and latencies of models.")
@click.argument("models", nargs=-1, required=True, type=click.Path())
@click.option("--data", type=click.Path(), metavar="FEEDS", help="Samples, of which the first is run.")
@model_options("seed", "threads", "dim", "preprocess", "external_root", "custom_op_library")
@json_option
@errors_become_exit_codes
def benchmark(models: tuple[str, ...], data: str | None, as_json: bool, **options: object) -> None:
    """Measure sizes and latencies of MODELS side by side: interleaved runs, processor time, kernels that run.

    \b
    Examples:
      onnxquant benchmark model.onnx model.int8.onnx model.q4_0.onnx --threads 1
    """
    rows = benchmark_models(*models, data=data, **options)
    if as_json:
        print_json(to_json(rows))
        return
    out = table("Benchmark", "model", ">size", ">smaller", ">latency", ">faster", ">runs", ">threads", "~kernels")
    for row in rows:
        kernels = ", ".join(f"{k} {v}" for k, v in list(row.kernels.items())[:6])
        out.add_row(
            row.model, size(row.bytes), times(row.size_ratio), milliseconds(row.seconds), _speed(row),
            str(row.runs), str(row.threads), kernels,
        )  # fmt: skip
    console().print(out)
    if rows[0].samples is not None:
        say(console(), rows[0].samples, label="prepared ", style="bold")


def _speed(row: BenchmarkRow) -> str:
    return times(row.speed_ratio) if row.speed_interval is None else speed(row.speed_ratio, row.speed_interval)
