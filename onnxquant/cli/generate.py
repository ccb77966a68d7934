"""``onnxquant generate``."""

from __future__ import annotations

import signal
import sys

import click

from onnxquant.cli.shared import errors_become_exit_codes, json_option, print_json
from onnxquant.json_data import to_object
from onnxquant.language.running.generate import CONTEXT, LENGTH, MAX_TOKENS, Generation, GenerationSummary
from onnxquant.language.running.generate import generate as generate_text
from onnxquant.system.interrupts import Terminated

# What to know of a text that the model did not end, by what did.
_STOPPED = {
    CONTEXT: "stopped: the context of {} tokens is full, prompt and text together",
    LENGTH: "stopped: as many tokens as --max-tokens allows",
}


@click.command(short_help="Continue a text with a decoder folder.")
@click.argument("folder", type=click.Path())
@click.argument("prompt")
@click.option("--max-tokens", type=int, help=f"Largest number of new tokens.  [default: {MAX_TOKENS}]")
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="Draw tokens by their probabilities: below 1 the probable ones oftener, above 1 less often; "
    "0: always the most probable one.",
)
@click.option("--top-k", type=int, default=0, help="Draw among so many most probable tokens.  [default: all]")
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    help="Draw among the fewest tokens that are so probable together.  [default: all]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--chat", is_flag=True, help="PROMPT is a message: wrap it in the folder's chat template.")
@click.option("--threads", type=int, help="Number of threads.  [default: onnxruntime's choice]")
@click.option("--no-library", is_flag=True, help="Run operators of onnxquant without its compiled library.")
@json_option
@errors_become_exit_codes
def generate(folder: str, prompt: str, no_library: bool, as_json: bool, **options: object) -> None:
    """Continue PROMPT with the decoder in FOLDER; the text appears as its tokens come.

    \b
    FOLDER is of onnxruntime-genai's layout, or Optimum's: model.onnx, its data,
    genai_config.json (or config.json), tokenizer.json.

    \b
    Examples:
      onnxquant generate smollm2 "The capital of France is"
      onnxquant generate smollm2 "Tell me a joke." --chat --temperature 0.7 --top-p 0.9
    """  # fmt: skip
    generation = generate_text(folder, prompt, library=not no_library, **options)  # type: ignore[arg-type]
    is_interrupted = False
    try:
        for piece in generation:
            if not as_json:
                click.echo(_harmless(piece), nl=False)
                sys.stdout.flush()
    except Terminated:
        raise
    except KeyboardInterrupt:
        is_interrupted = True
    _end(generation, as_json=as_json)
    if is_interrupted:
        sys.exit(128 + signal.SIGINT)


def _end(generation: Generation, *, as_json: bool) -> None:
    """Print what the generation took."""
    summary = generation.summary
    if as_json:
        print_json(
            {**to_object(summary), "prompt_tokens_per_second": summary.prompt_speed, "tokens_per_second": summary.speed}
        )
        return
    click.echo()
    if summary.stopped_by in _STOPPED:
        click.echo(_STOPPED[summary.stopped_by].format(generation.capacity), err=True)
    click.echo(_speeds(summary), err=True)


def _speeds(summary: GenerationSummary) -> str:
    """The speeds as a line."""
    parts = [
        f"prompt: {summary.prompt_tokens} tokens, {summary.prompt_speed:.1f} tokens/s",
        f"text: {len(summary.tokens)} tokens" + (f", {summary.speed:.1f} tokens/s" if summary.speed else ""),
    ]
    return f"{'; '.join(parts)} (by the clock; benchmark counts processor time on one thread)"


def _harmless(text: str) -> str:
    """A text whose control characters, which a model may write, cannot command a terminal."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
