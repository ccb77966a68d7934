"""``onnxquant validate``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from onnxquant.cli.options import data_option, given, model_options, refuse_flags, split_options
from onnxquant.cli.shared import FAILED, Display, command_line, errors_become_exit_codes, progress_bar, report_options
from onnxquant.inspect.validate import validate as validate_models

_OPTIONS = (
    "samples", "seed", "threads", "dim", "preprocess", "labels", "min_sqnr", "max_mse", "metric", "max_drop", "judge",
    "external_root", "custom_op_library", "report", "force",
)  # fmt: skip
# Options of decoder folders alone, and those that models share with them.
_OF_TEXTS = ("text", "window", "tokens", "all_positions", "max_kl", "max_perplexity_ratio")
_SHARED = ("threads", "report", "force")


@click.command(short_help="Prove a quantized model.")
@click.argument("original", type=click.Path())
@click.argument("quantized", type=click.Path())
@click.option(
    "--detailed",
    is_flag=True,
    help="Show the error of each weight, and what it adds to the error of the outputs; the largest first.",
)
@data_option("Samples")
@click.option(
    "--text", type=click.Path(), help="For decoder folders: text, .jsonl or folder of them whose tokens they predict."
)
@click.option("--window", type=int, help="Tokens of the text that are read from an empty context.  [default: 512]")
@click.option("--tokens", type=int, help="Tokens of the text that are read at most.  [default: all]")
@click.option(
    "--all-positions", is_flag=True, help="Predict all tokens of a window, not those of its second half alone."
)
@click.option("--max-kl", type=float, metavar="NATS", help="Exit 1 if the mean KL divergence is above this.")
@click.option(
    "--max-perplexity-ratio", type=float, metavar="X", help="Exit 1 if perplexity over the original is above this."
)
@model_options(*_OPTIONS)
@report_options
@errors_become_exit_codes
def validate(
    original: str, quantized: str, detailed: bool, data: str | None, display: Display, **options: object
) -> None:
    """Prove QUANTIZED against ORIGINAL: structure, weights, outputs, sizes, speed.

    \b
    Compares float, the dense twin (the original with decoded weights), and the
    file as deployed. Without --data the samples are synthetic: good for finding
    defects, not for judging accuracy.

    \b
    Examples:
      onnxquant validate model.onnx model.int8.onnx
      onnxquant validate model.onnx model.int8.onnx --data feeds.npz --detailed
      onnxquant validate model.onnx model.int8.onnx --min-sqnr 30
      onnxquant validate decoder decoder.q4 --text corpus.txt --max-kl 0.05

    \b
    They may be decoder folders, and ORIGINAL a GGUF file or a folder of Hugging
    Face. They then read a --text in windows; perplexity and KL divergence are
    those of llama.cpp's tool.
    """
    if options["text"] is not None:
        _validate_decoders(original, quantized, display, options)
        return
    refuse_flags(_OF_TEXTS, "has no effect without --text")
    if Path(quantized).is_dir():
        raise click.UsageError(f"{quantized} is a folder: decoder folders are proven on a text, give --text")
    _, options = split_options(given(options), _OF_TEXTS)
    with progress_bar(is_shown=display.shows_progress) as progress:
        report = validate_models(
            original, quantized, data, detailed=detailed, progress=progress, command=command_line(), **options
        )
    replace(display, verbose=display.verbose or detailed).report(report)
    if not report.passed:
        sys.exit(FAILED)


def _validate_decoders(original: str, folder: str, display: Display, options: Mapping[str, Any]) -> None:
    """The proof of a decoder folder on a text."""
    from onnxquant.cli.decoders import report_places, show_proof, write_reports
    from onnxquant.language.running.proof import validate as validate_decoders

    refuse_flags(("data", "detailed", *(name for name in _OPTIONS if name not in _SHARED)), "has no effect with --text")
    places = report_places(options["report"], force=options["force"])
    own, _ = split_options(options, _OF_TEXTS)
    with progress_bar(is_shown=display.shows_progress) as progress:
        proof = validate_decoders(original, folder, threads=options["threads"], progress=progress, **own)
    write_reports(proof, places)
    show_proof(proof, display, places)
    if not proof.passed:
        sys.exit(FAILED)
