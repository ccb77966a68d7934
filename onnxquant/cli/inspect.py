"""Commands that look at models and at this installation: benchmark, info, list, verify, dequantize."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from onnxquant import passes
from onnxquant.artifact.hashes import verify as verify_file
from onnxquant.artifact.restore import dequantize as dequantize_file
from onnxquant.cli.options import FAILED, console, errors_become_exit_codes, model_options, print_json
from onnxquant.errors import NativeLibraryError
from onnxquant.formats import formats
from onnxquant.inspect.benchmark import benchmark as benchmark_models
from onnxquant.inspect.compatibility import advice
from onnxquant.inspect.info import info as info_of
from onnxquant.json_data import JsonObject, to_json, to_object
from onnxquant.native import library as native
from onnxquant.native.kernels import formats as kernel_formats
from onnxquant.recipe.files import shipped
from onnxquant.report.terminal import table
from onnxquant.report.units import milliseconds, size, times
from onnxquant.solvers import Solver, solvers
from onnxquant.targets import targets
from onnxquant.targets.bodies import GATHER, MATMUL, op_name

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path())
@click.option("--data", type=click.Path(), metavar="FEEDS", help="Samples, of which the first is run.")
@model_options("seed", "threads", "dim", "preprocess", "external_root")
@_json
@errors_become_exit_codes
def benchmark(models: tuple[str, ...], data: str | None, as_json: bool, **options: Any) -> None:
    """Sizes and latencies of MODELS side by side: runs interleaved, medians, kernels picked.

    \b
    Examples:
      onnxquant benchmark model.onnx model.int8.onnx model.q4_0.onnx --threads 1
    """
    rows = benchmark_models(*models, data=data, **options)
    if as_json:
        print_json(to_json(rows))
        return
    out = table("Benchmark", "model", ">size", ">smaller", ">latency", ">faster", ">runs", "threads", "kernels")
    for row in rows:
        kernels = ", ".join(f"{k} {v}" for k, v in list(row.kernels.items())[:6])
        out.add_row(
            escape(row.model), size(row.bytes), times(row.size_ratio), milliseconds(row.seconds), times(row.speed_ratio),
            str(row.runs), str(row.threads or "default"), kernels,
        )  # fmt: skip
    console().print(out)


@click.command()
@click.argument("model", type=click.Path())
@_json
@errors_become_exit_codes
def info(model: str, as_json: bool) -> None:
    """What MODEL holds: formats, sizes before and after, bits per weight, opset, provenance.

    \b
    Examples:
      onnxquant info model.int8.onnx
    """
    data: JsonObject = {**to_object(info_of(model)), "advice": advice(model)}
    if as_json:
        print_json(data)
        return
    out = table(f"{escape(model)}", "what", "value")
    for key, value in data.items():
        if key in ("model", "tensors"):  # one by one in JSON
            continue
        if key.endswith("bytes"):
            text = size(float(str(value)))
        elif isinstance(value, float):
            text = f"{value:.3f}"
        elif isinstance(value, dict):
            text = ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
        elif isinstance(value, list):
            text = ", ".join(map(str, value)) or "none"
        else:
            text = "none" if value is None else str(value)
        out.add_row(key.replace("_", " "), escape(text))
    console().print(out)


def _installation() -> dict[str, Any]:
    try:
        compiled, usable, names = list(native.compiled_isas()), list(native.isas()), kernel_formats()
    except NativeLibraryError:
        compiled, usable, names = [], [], []
    kernels = {f.name: [op_name(k, f) for k in (MATMUL, GATHER)] if f.name in names else [] for f in formats()}
    return {
        "formats": [
            {
                "name": f.name,
                "summary": f.summary(),
                "source": f.source,
                "bits_per_weight": f.bits_per_weight,
                "parameters": f.parameters(),
                "targets": [t.name for t in targets() if t.holds(f)],
                "kernels": kernels[f.name],
            }
            for f in formats()
        ],
        "targets": {t.name: t.summary for t in targets()},
        "solvers": {
            s.name: {"summary": s.summary, "needs_data": s.needs_inputs, "refuses": _refused(s)} for s in solvers()
        },
        "passes": {
            name: {"summary": cls.summary, "needs_settings": cls.needs_settings()} for name, cls in passes.registry().items()
        },
        "recipes": {name: _about(path) for name, path in shipped().items()},
        "instruction_sets": {"compiled": compiled, "usable": usable},
    }


def _about(recipe: Path) -> str:
    """Its first comment."""
    return recipe.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def _refused(solver: Solver) -> dict[str, str]:
    return {f.name: reason for f in formats() if (reason := solver.refusal(f))}


@click.command("list")
@_json
@errors_become_exit_codes
def list_(as_json: bool) -> None:
    """Formats with their bits per weight, targets that hold each, solvers, passes, and the kernels usable on this machine.

    \b
    Examples:
      onnxquant list --json
    """
    data = _installation()
    if as_json:
        print_json(data)
        return
    out = table("Formats", "format", ">bits per weight", "what it is", "parameters", "targets", "kernels of ours")
    for f in data["formats"]:
        bits = f"{f['bits_per_weight']:.4g}"
        lists = (", ".join(f[column]) for column in ("parameters", "targets", "kernels"))
        out.add_row(f["name"], bits, f["summary"], *lists)
    screen = console()
    screen.print(out)
    for name, summary in data["targets"].items():
        screen.print(f"target [bold]{name}[/bold]: {summary}")
    for name, about in data["solvers"].items():
        needs = ", needs --data" if about["needs_data"] else ""
        refuses = f" (not {', '.join(about['refuses'])})" if about["refuses"] else ""
        screen.print(f"solver [bold]{name}[/bold]: {about['summary']}{needs}{refuses}")
    for name, about in data["passes"].items():
        runs = "; options run it" if about["needs_settings"] else ""
        screen.print(f"pass [bold]{name}[/bold]: {about['summary']}{runs}")
    for name, about in data["recipes"].items():
        screen.print(f"recipe [bold]{name}[/bold]: {about}")
    sets = data["instruction_sets"]
    screen.print(
        f"kernels compiled for: {', '.join(sets['compiled']) or 'none'}; usable here: {', '.join(sets['usable'])}"
    )


@click.command()
@click.argument("model", type=click.Path())
@_json
@errors_become_exit_codes
def verify(model: str, as_json: bool) -> None:
    """Check the stored hash of every tensor of MODEL; exit 1 when one does not hold.

    \b
    Examples:
      onnxquant verify model.int8.onnx
    """
    results = verify_file(model)
    bad = [name for name, good in results.items() if not good]
    if as_json:
        print_json({"model": model, "tensors": len(results), "damaged": bad})
    else:
        for name in bad:
            click.echo(f"damaged: {name}")
        click.echo(f"{model}: {len(results) - len(bad)} of {len(results)} tensors as written")
    if bad:
        sys.exit(FAILED)


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="File to write.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@errors_become_exit_codes
def dequantize(model: str, output: str, force: bool) -> None:
    """Write the plain float model that a quantized MODEL stands for.

    \b
    Examples:
      onnxquant dequantize model.int8.onnx -o model.float.onnx
    """
    count = dequantize_file(model, output, force=force)
    click.echo(f"{output}: {count} weights decoded")
