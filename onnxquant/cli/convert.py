"""``onnxquant convert``, and ``onnxquant quantize`` of files that have tensors and no graph."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from onnxquant import interchange, language
from onnxquant.cli.options import given, model_options
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
from onnxquant.interchange.contents import CheckpointInfo
from onnxquant.interchange.convert import Conversion
from onnxquant.interchange.files import containers, endings, has_ending
from onnxquant.interchange.quantize import CheckpointReport
from onnxquant.json_data import to_object
from onnxquant.language import DecoderReport
from onnxquant.language.convert import CACHES
from onnxquant.report.table import Table, say
from onnxquant.report.terminal import table
from onnxquant.report.units import size, smaller

# Tensors of one reason that are named.
_NAMED = 5
# Entries of metadata that are printed.
_METADATA = 12
# Name of the output that is no container: the ONNX model of a decoder.
_ONNX = "onnx"
# Options of convert that hold for containers alone, and for decoders alone.
_OF_CONTAINERS = ("leave_out", "shard_size")
_OF_DECODERS = (
    "context",
    "cache",
    "text",
    "format",
    "bits",
    "include",
    "exclude",
    "target",
    "compute",
    *format_parameters(),
)
# Options of quantize that hold for files without a graph, beside the parameters of formats.
_OPTIONS = ("format", "bits", "include", "exclude", "permutation", "force", "to", "leave_out")

# Help of options that mean something else of a decoder than of a model.
_TEXTS = {
    "format": "Format that a decoder's floats are rounded to; `onnxquant list` shows all. Codes of the checkpoint stay what "
    "they are. [default: none; floats stay floats]",
    "bits": "Short form of --format: 4 for int4, and so on. [default: none; floats stay floats]",
}


@click.command(short_help="Move quantized weights between files, or into an ONNX decoder.")
@click.argument("source", type=click.Path())
@click.option("-o", "--output", type=click.Path(), required=True, help="File or folder to write.")
@click.option(
    "--to", type=click.Choice([*containers(), _ONNX]),
    help="Container, or onnx: a decoder that runs. [default: by the end of the output's name; a folder: onnx]",
)  # fmt: skip
@click.option("--leave-out", is_flag=True, help="Leave tensors out that the container cannot hold.")
@click.option(
    "--shard-size", metavar="SIZE", help="Largest file of a folder of safetensors, such as 500MB. [default: 5GB]"
)
@click.option("--context", type=int, help="Positions that a decoder holds. [default: those it was trained for]")
@click.option(
    "--cache", type=click.Choice(CACHES),
    help="How a decoder keeps keys and values. int8 takes a quarter of the memory, and onnxruntime 1.27. [default: float32]",
)  # fmt: skip
@click.option(
    "--text", type=click.Path(), metavar="FILE",
    help="Text, .jsonl or folder of them that ranges of an int8 cache are measured on. [default: what the model writes]",
)  # fmt: skip
@model_options("format", "bits", "include", "exclude", "target", "compute", *format_parameters(), texts=_TEXTS)
@click.option("--force", is_flag=True, help="Replace an existing output.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@errors_become_exit_codes
def convert(source: str, output: str, to: str | None, as_json: bool, quiet: bool, **options: Any) -> None:  # noqa: ANN401 - click
    """Write the tensors of SOURCE as another kind of file; codes move as they are, and nothing is rounded again.

    SOURCE is a GGUF file (split ones too), a safetensors file or folder (floats, bitsandbytes, GPTQ, AWQ,
    compressed-tensors, BitNet), a folder of .q8k files, or an AXQT file.

    An output without such an ending is a folder that onnxruntime and onnxruntime-genai run: the decoder of SOURCE as
    model.onnx, genai_config.json, and the tokenizer. Floats are rounded there where --format or --bits asks for it.

    \b
    Examples:
      onnxquant convert model.gguf -o decoder
      onnxquant convert hugging_face_folder -o decoder --bits 4
      onnxquant convert model.gguf -o decoder --cache int8
      onnxquant convert model.gguf -o model.axqt
      onnxquant convert gptq/ -o model.axqt
      onnxquant convert model.gguf -o folder --to safetensors --shard-size 2GB
      onnxquant convert mixed.gguf -o codes_q8k --leave-out
    """
    chosen = given(options)
    is_decoder = to == _ONNX or (to is None and not has_ending(Path(output)))
    useless = [name for name in chosen if name in (_OF_CONTAINERS if is_decoder else _OF_DECODERS)]
    if useless:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        place = (
            "a decoder" if is_decoder else "a file of tensors, where codes move as they are (quantize rounds floats)"
        )
        raise RecipeError(f"{output}: is {place}; {flags} has no effect")
    with progress_bar(is_shown=not (as_json or quiet)) as progress:
        if is_decoder:
            decoder = language.convert(source, output, progress=progress, **chosen)
        else:
            shard_bytes = _bytes(chosen.pop("shard_size", None))
            result = interchange.convert(source, output, to=to, shard_bytes=shard_bytes, progress=progress, **chosen)
    if as_json:
        print_json(to_object(decoder if is_decoder else result))
    elif not quiet and is_decoder:
        _print_decoder(decoder)
    elif not quiet:
        _print(result)


def _print_decoder(report: DecoderReport) -> None:
    screen = console()
    out = table("", "format", ">weights", ">elements", ">size", ">bits", ">least dB")
    for group in report.groups:
        level = "" if group.sqnr_db is None else f"{group.sqnr_db:.1f}"
        out.add_row(
            group.format, str(group.weights), f"{group.elements:,}", size(group.nbytes),
            f"{8 * group.nbytes / group.elements:.4g}", level,
        )  # fmt: skip
    screen.print(out)
    for note in report.notes:
        say(screen, note)
    if report.unused:
        names = ", ".join(_printable(name) for name in report.unused[:_NAMED])
        say(screen, f"{len(report.unused)} tensors are no part of the decoder: {names}", style="yellow")
    say(
        screen,
        f"{report.output}: {report.family} of {report.parameters:,} weights, {report.bits_per_weight:.4g} bits each, "
        f"{size(report.nbytes)} with all files, {report.context} positions",
    )
    if (Path(report.output) / "tokenizer.json").exists():
        say(screen, f'next: onnxquant generate {report.output} "Once upon a time"')


def _bytes(text: str | None) -> int | None:
    """The bytes of a size such as 500MB; units are powers of 1000, and of 1024 with an i."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?", text.strip())
    if match is None:
        raise RecipeError(f"--shard-size {text!r}: expected a size such as 500MB or 5GB")
    unit: int = (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * unit)


def show_checkpoint(file: str, *, as_json: bool, verbose: bool) -> None:
    """Print the contents of a file of tensors; each of them where asked to."""
    contents = interchange.contents(file)
    if as_json:
        print_json(to_object(contents))
        return
    screen = console()
    out = table(file, "type", ">tensors", ">elements", ">size", ">bits")
    for entry in contents.types:
        out.add_row(
            entry.type, str(entry.tensors), f"{entry.elements:,}", size(entry.nbytes), f"{entry.bits_per_weight:.4g}"
        )
    screen.print(out)
    if verbose:
        screen.print()
        screen.print(_tensors(contents))
        screen.print()
    say(
        screen,
        f"{contents.container}, {size(contents.nbytes)}, {len(contents.tensors)} tensors, "
        f"{contents.bits_per_weight:.4g} bits per weight",
    )
    for key, value in list(contents.metadata.items())[:_METADATA]:
        say(screen, _printable(f"{key}: {value}"))
    if len(contents.metadata) > _METADATA:
        say(screen, f"and {len(contents.metadata) - _METADATA} more entries of metadata (--json shows them)")
    for note in contents.notes:
        say(screen, note)


def _tensors(contents: CheckpointInfo) -> Table:
    """A row for each tensor."""
    out = table("", "tensor", "type", ">shape", ">size", ">bits")
    for tensor in contents.tensors:
        out.add_row(
            tensor.name, tensor.type + ", permuted" * tensor.permuted, "x".join(map(str, tensor.shape)) or "scalar",
            size(tensor.nbytes), f"{tensor.bits_per_weight:.4g}",
        )  # fmt: skip
    return out


def verify_checkpoint(file: str, *, as_json: bool) -> None:
    """Print which tensors of a file are damaged; exit 1 where one is."""
    with progress_bar(is_shown=not as_json) as progress:
        result = interchange.verify(file, progress=progress)
    if as_json:
        print_json({**to_object(result), "passed": result.passed})
    else:
        screen = console()
        for tensor in result.damaged:
            say(screen, _printable(f"{tensor.name}: {tensor.reason}"), label="damaged: ", style="red")
        if result.not_decoded:
            say(screen, f"{len(result.not_decoded)} tensors are of types that onnxquant moves and does not decode")
        whole = result.tensors - len(result.damaged)
        sums = "checksums" if result.has_checksums else f"there are no checksums in {result.container}"
        say(screen, f"{file}: {whole} of {result.tensors} tensors whole: sizes, codes, finite scales; {sums}")
    if not result.passed:
        sys.exit(FAILED)


def _printable(text: str) -> str:
    """A text of a file, in which signs that control a terminal are written out."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


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
        raise RecipeError(
            f"{source}: is a file of tensors without a graph; name the output with -o, ending in {endings()}"
        )
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
    _name_left_out(screen, report.file)
    for tensor in report.quantized:
        if sentence := tensor.complaint or tensor.doubt:
            say(screen, f"{tensor.name}: {sentence}", style="red" if tensor.complaint else "yellow")
    file = report.file
    ratio = smaller(report.source_bytes / max(file.nbytes, 1))
    say(screen, f"{file.output}: {size(file.nbytes)}, {ratio} than {size(report.source_bytes)} of tensors")
    say(
        screen,
        f"{len(report.quantized)} of {file.tensors} tensors quantized, mean MSE {report.mean_mse:.3g}, "
        f"{report.tensors_per_second:.1f} tensors a second, sum and gradient tests "
        f"{'passed' if report.passed else 'FAILED'}",
    )


def _name_left_out(screen: Console, result: Conversion) -> None:
    """Name the tensors that an output does not have, by their reasons."""
    reasons: dict[str, list[str]] = {}
    for entry in result.left_out:
        reasons.setdefault(entry.reason, []).append(_printable(entry.name))
    for reason, names in reasons.items():
        others = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
        say(screen, f"left out: {', '.join(names[:_NAMED])}{others}: {_printable(reason)}")
    if result.left_out:
        count = len(result.left_out)
        say(screen, f"{count} of {count + result.tensors} tensors are left out", style="yellow")


def _print(result: Conversion) -> None:
    screen = console()
    _name_left_out(screen, result)
    for note in result.notes:
        say(screen, note)
    codes = f"{result.encoded} of them with codes" if result.encoded else "plain numbers"
    say(screen, f"{result.output}: {size(result.nbytes)}, {result.tensors} tensors, {codes}, {result.container}")
