"""``onnxquant convert``, and ``onnxquant quantize`` of files that have tensors and no graph."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from onnxquant import interchange
from onnxquant.cli.shared import (
    FAILED,
    Display,
    console,
    errors_become_exit_codes,
    json_option,
    print_json,
    progress_bar,
)
from onnxquant.errors import RecipeError
from onnxquant.formats import format_parameters
from onnxquant.interchange.convert import Conversion
from onnxquant.interchange.files import containers
from onnxquant.interchange.quantize import CheckpointReport
from onnxquant.json_data import to_object
from onnxquant.report.table import say
from onnxquant.report.terminal import table
from onnxquant.report.units import size

# Options of quantize that hold for files without a graph, beside the parameters of formats.
_OPTIONS = ("format", "bits", "include", "exclude", "permutation", "force")


@click.command(short_help="Move quantized weights between files.")
@click.argument("source", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="File or folder to write.")
@click.option(
    "--to", type=click.Choice(list(containers())), help="Container. [default: by the end of the output's name]"
)
@click.option("--leave-out", is_flag=True, help="Leave tensors out that the container cannot hold.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@errors_become_exit_codes
def convert(source: str, output: str, to: str | None, leave_out: bool, force: bool, as_json: bool, quiet: bool) -> None:
    """Write the tensors of SOURCE as another kind of file; codes move as they are, and nothing is rounded again.

    SOURCE is a GGUF file (split ones too), a safetensors file or folder (floats, bitsandbytes, GPTQ, AWQ,
    compressed-tensors, BitNet), a folder of .q8k files, or an AXQT file.

    \b
    Examples:
      onnxquant convert model.gguf -o model.safetensors
      onnxquant convert gptq/ -o model.axqt
      onnxquant convert model_q8k -o model.gguf
      onnxquant convert mixed.gguf -o codes_q8k --leave-out
    """
    with progress_bar(is_shown=not (as_json or quiet)) as progress:
        result = interchange.convert(source, output, to=to, leave_out=leave_out, force=force, progress=progress)
    if as_json:
        print_json(to_object(result))
    elif not quiet:
        _print(result)


def quantize_checkpoint(source: str, output: str | None, display: Display, options: Mapping[str, object]) -> None:
    """Quantize a file of tensors by the options of ``onnxquant quantize``, and print what came of it.

    Raises:
        RecipeError: an option has no effect without a graph, or there is no output.
    """
    known = (*_OPTIONS, *format_parameters())
    if useless := [name for name in options if name not in known]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise RecipeError(f"{source}: is a file of tensors without a graph, where {flags} has no effect")
    if output is None:
        ends = ", ".join(suffix for container in containers().values() for suffix in container.suffixes)
        raise RecipeError(f"{source}: is a file of tensors without a graph; name the output with -o, ending in {ends}")
    arguments = dict(options)
    bits = arguments.pop("bits", None)
    if bits is not None:
        arguments.setdefault("format", f"int{bits}")
    with progress_bar(is_shown=display.shows_progress) as progress:
        report = interchange.quantize(source, output, progress=progress, **arguments)  # type: ignore[arg-type]
    _show(report, display)
    if not report.passed:
        sys.exit(FAILED)


def _show(report: CheckpointReport, display: Display) -> None:
    if display.as_json:
        figures = {
            "mean_mse": report.mean_mse,
            "tensors_per_second": report.tensors_per_second,
            "passed": report.passed,
        }
        print_json(to_object(report) | figures)
        return
    screen = console(quiet=display.quiet)
    if display.verbose:
        out = table("", "tensor", "format", ">dB", ">MSE")
        for tensor in report.quantized:
            out.add_row(tensor.name, tensor.format, f"{tensor.sqnr_db:.1f}", f"{tensor.mse:.3g}")
        screen.print(out)
    for tensor in report.quantized:
        if sentence := tensor.complaint or tensor.doubt:
            say(screen, f"{tensor.name}: {sentence}", style="red" if tensor.complaint else "yellow")
    file = report.file
    smaller = report.source_bytes / max(file.nbytes, 1)
    say(
        screen,
        f"{file.output}: {size(file.nbytes)}, {smaller:.2f}x smaller than {size(report.source_bytes)} of tensors",
    )
    say(
        screen,
        f"{len(report.quantized)} of {file.tensors} tensors quantized, mean MSE {report.mean_mse:.3g}, "
        f"{report.tensors_per_second:.1f} tensors a second, sum and gradient tests "
        f"{'passed' if report.passed else 'FAILED'}",
    )


def _print(result: Conversion) -> None:
    screen = console()
    for entry in result.left_out:
        say(screen, f"left out: {entry.name}: {entry.reason}")
    for note in result.notes:
        say(screen, note)
    codes = f"{result.encoded} of them with codes" if result.encoded else "plain numbers"
    say(screen, f"{result.output}: {size(result.nbytes)}, {result.tensors} tensors, {codes}, {result.container}")
