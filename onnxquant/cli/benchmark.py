"""``onnxquant benchmark``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from onnxquant.cli.options import model_options, refuse_flags, split_options
from onnxquant.cli.profiles import show_profiles
from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json, say_spread
from onnxquant.inspect.benchmark import BenchmarkRow
from onnxquant.inspect.benchmark import benchmark as benchmark_models
from onnxquant.inspect.profile import profile as profile_models
from onnxquant.json_data import to_json
from onnxquant.report.table import say
from onnxquant.report.terminal import table
from onnxquant.report.units import milliseconds, size, speed, times

# Operators that are named for each model; models of which --per-op shows the times beside each other.
_KERNELS, _SIDE_BY_SIDE = 6, 2
# Options of decoder folders alone, and those that they have no use for.
_OF_DECODERS = ("prompt", "generate", "rounds")
_OF_FILES = ("data", "seed", "dim", "preprocess", "external_root", "custom_op_library")


@click.command(short_help="Compare sizes and latencies of models.")
@click.argument("models", nargs=-1, required=True, type=click.Path())
@click.option("--data", type=click.Path(), metavar="FEEDS", help="Samples, of which the first is run.")
@click.option("--prompt", type=int, help="For decoder folders: tokens of the prompt.  [default: 128]")
@click.option("--generate", type=int, help="For decoder folders: tokens of the text after it.  [default: 64]")
@click.option(
    "--rounds", type=int, help="For decoder folders: number of rounds.  [default: until the ratios are certain]"
)
@click.option(
    "--per-op", is_flag=True, help="Of one model or two: the time by operator and by node in place of the sizes."
)
@click.option("-v", "--verbose", is_flag=True, help="With --per-op: every operator and node.")
@model_options("seed", "threads", "dim", "preprocess", "external_root", "custom_op_library")
@json_option
@errors_become_exit_codes
def benchmark(
    models: tuple[str, ...], data: str | None, as_json: bool, per_op: bool, verbose: bool, **options: object
) -> None:
    """Measure sizes and latencies of MODELS side by side: interleaved runs, processor time, kernels that run.

    \b
    Examples:
      onnxquant benchmark model.onnx model.int8.onnx model.q4_0.onnx --threads 1
      onnxquant benchmark decoder decoder.q4 --prompt 128 --generate 64
      onnxquant benchmark model.onnx model.int8.onnx --per-op   where does the time go?

    \b
    MODELS may be decoder folders: tokens a second of a prompt and of the text
    after it, time to load, memory.
    """
    if per_op and len(models) > _SIDE_BY_SIDE:
        raise click.UsageError(f"--per-op takes one model, or two side by side, found {len(models)}")
    if not per_op:
        refuse_flags(("verbose",), "has no effect without --per-op")
    if any(Path(model).is_dir() for model in models):
        refuse_flags(_OF_FILES, "has no effect on decoder folders")
        own, _ = split_options(options, (*_OF_DECODERS, "threads"))
        if per_op:
            _profile_decoders(models, own, as_json=as_json, verbose=verbose)
        else:
            _benchmark_decoders(models, own, as_json=as_json)
        return
    refuse_flags(_OF_DECODERS, "has no effect on files: give decoder folders")
    _, options = split_options(options, _OF_DECODERS)
    if per_op:
        profiles = profile_models(*models, data=data, **options)
        if as_json:
            print_json(to_json(profiles))
        else:
            show_profiles(profiles, _names(models), verbose=verbose)
            _say_preparation(profiles[0].samples)
        return
    rows = benchmark_models(*models, data=data, **options)
    if as_json:
        print_json(to_json(rows))
        return
    out = table("Benchmark", "model", "+>faster", "+>latency", ">size", ">smaller", ">runs", ">threads", "~kernels")
    for row, name in zip(rows, _names([row.model for row in rows]), strict=True):
        kernels = ", ".join(f"{k} {v}" for k, v in list(row.kernels.items())[:_KERNELS])
        out.add_row(
            name, _speed(row), milliseconds(row.seconds), size(row.bytes), times(row.size_ratio), str(row.runs),
            str(row.threads), kernels,
        )  # fmt: skip
    out.caption = "Processor time, 1 thread" if rows[0].threads == 1 else "Latency by the clock, ratios of processor time"
    console().print(out)
    say_spread({name: row.spread or 0.0 for row, name in zip(rows, _names(models), strict=True)})
    _say_preparation(rows[0].samples)


def _say_preparation(samples: str | None) -> None:
    """Print the steps from images or texts to the inputs."""
    if samples is not None:
        say(console(), samples, label="prepared ", style="bold")


def _names(models: Sequence[str]) -> list[str]:
    """Names of the models in a table: those of the files, where they differ.

    >>> _names(["out/a.onnx", "b.onnx"]), _names(["a/model.onnx", "b/model.onnx"])
    (['a.onnx', 'b.onnx'], ['a/model.onnx', 'b/model.onnx'])
    """
    names = [Path(model).name for model in models]
    return names if len(set(names)) == len(set(models)) else list(models)


def _speed(row: BenchmarkRow) -> str:
    return times(row.speed_ratio) if row.speed_interval is None else speed(row.speed_ratio, row.speed_interval)


def _benchmark_decoders(folders: Sequence[str], options: Mapping[str, Any], *, as_json: bool) -> None:
    """Measure decoder folders."""
    from onnxquant.cli.decoders import show_speeds
    from onnxquant.language.running.speed import benchmark as benchmark_decoders

    rows = benchmark_decoders(*folders, **{name: value for name, value in options.items() if value is not None})
    if as_json:
        print_json(to_json(rows))
    else:
        show_speeds(rows, _names(folders))


def _profile_decoders(folders: Sequence[str], options: Mapping[str, Any], *, as_json: bool, verbose: bool) -> None:
    """Profile decoder folders."""
    from onnxquant.language.running.profile import profile as profile_decoders

    profiles = profile_decoders(*folders, **{name: value for name, value in options.items() if value is not None})
    if as_json:
        print_json(to_json(profiles))
        return
    show_profiles([profile.prompt for profile in profiles], _names(folders), verbose=verbose)
    console().print()
    show_profiles([profile.token for profile in profiles], _names(folders), verbose=verbose)
