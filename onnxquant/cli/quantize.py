"""``onnxquant quantize``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onnxquant.cli.convert import quantize_checkpoint
from onnxquant.cli.options import data_option, given, model_options, recipe_option
from onnxquant.cli.shared import (
    FAILED,
    Display,
    command_line,
    console,
    errors_become_exit_codes,
    progress_bar,
    report_options,
)
from onnxquant.convert.best import quantize as quantize_model
from onnxquant.errors import RecipeError
from onnxquant.inspect.compatibility import advice
from onnxquant.interchange.files import containers, is_checkpoint
from onnxquant.language.quantize import quantize as quantize_decoder
from onnxquant.language.running.folder import is_decoder_folder
from onnxquant.report.table import say
from onnxquant.report.warnings import is_slow_without_library


@click.command(short_help="Quantize a model.")
@click.argument("model", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="File to write; of a decoder folder, the folder. [default: MODEL.GOAL.onnx or MODEL.FORMAT.onnx]",
)
@click.option(
    "--to",
    type=click.Choice(list(containers())),
    help="Container, for tensors without a graph. [default: by the output's name]",
)
@click.option(
    "--leave-out", is_flag=True, help="Leave tensors out that the container cannot hold, for tensors without a graph."
)
@recipe_option
@data_option("Samples that choose the way, calibrate and prove")
@model_options()
@report_options
@errors_become_exit_codes
def quantize(model: str, output: str | None, display: Display, **options: object) -> None:
    """Quantize MODEL, write the result, and prove it.

    With samples, and no option that names the way, the ways that suit MODEL are
    tried and the best file is written. Of a decoder folder a whole folder is
    written, with tokenizer and configurations.

    \b
    Examples:
      onnxquant quantize model.onnx --data feeds.npz       the fastest good file
      onnxquant quantize model.onnx --data feeds.npz --goal small
      onnxquant quantize model.onnx                        int8 weights, safe
      onnxquant quantize model.onnx -o small.onnx --bits 4
      onnxquant quantize model.onnx --format q4_0 --target custom
      onnxquant quantize model.onnx --exclude 'head|embed' keep weights in float
      onnxquant quantize model.onnx --format q8_0 --data feeds.npz --min-sqnr 30
      onnxquant quantize model.onnx --format int4 --data texts.npz
                                                           GPTQ on these texts
      onnxquant quantize model.onnx --budget-bpw 4.5 --data texts.npz
                                                           the best formats of
                                                           that size
      onnxquant quantize model.onnx --recipe q4-mixed      a recipe of the package
      onnxquant quantize model.safetensors -o model.gguf --format q4_0
                                                           tensors without a graph
      onnxquant quantize decoder -o decoder4 --bits 4      a language model's folder
      onnxquant quantize model.onnx --dry-run              the plan alone
      onnxquant quantize model.onnx --dry-run --save-recipe plan.toml
                                                           the plan as a recipe
    """
    if is_checkpoint(Path(model)):
        quantize_checkpoint(model, output, display, given(options))
        return
    if useless := [flag for flag in ("--to", "--leave-out") if options.pop(flag[2:].replace("-", "_"), None)]:
        raise RecipeError(f"{model}: is no file of tensors without a graph, for which alone there is {useless[0]}")
    write = quantize_decoder if is_decoder_folder(model) else quantize_model
    with progress_bar(is_shown=display.shows_progress) as progress:
        report = write(model, output, progress=progress, command=command_line(), **given(options))
    display.report(report)
    if report.output_bytes is not None and not (display.as_json or display.one_line):
        line = advice(str(report.output), needs_library=is_slow_without_library(report))
        say(console(quiet=display.quiet), line)
        if write is quantize_decoder:
            judge = f"onnxquant validate {model} {output} --text corpus.txt"
            say(console(quiet=display.quiet), f"on a text of yours: {judge}")
    if not report.passed:
        sys.exit(FAILED)
