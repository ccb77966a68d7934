"""Forms of the results on decoder folders: lines and tables on a terminal, JSON, pages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from onnxquant.cli.shared import Display, console, print_json, say_spread
from onnxquant.errors import RecipeError
from onnxquant.json_data import JsonObject, to_object
from onnxquant.language.running.divergence import Estimate
from onnxquant.language.running.proof import LanguageProof
from onnxquant.language.running.speed import FEWEST_ROUNDS, DecoderSpeed
from onnxquant.report.markdown import render_facts
from onnxquant.report.pages import Page, PageTable, render_page
from onnxquant.report.serialize import as_text
from onnxquant.report.table import say
from onnxquant.report.terminal import table
from onnxquant.report.units import milliseconds, size, smaller, speed, times
from onnxquant.system.files import atomically, refuse_taken

_ENDINGS = (".html", ".md", ".json")
# Figures below this have exponents; others have no more digits after the point than so many.
_SMALL, _MOST_DIGITS = 1e-4, 6
_POSITIONS = ("positions", ">tokens", ">original", ">perplexity", ">KL divergence", ">same top token")
_UNBOUNDED = "measured: no bound was asked for (--max-kl, --max-perplexity-ratio)"
# Codes of three bits and more keep more of the most probable tokens: below, the two are hardly one model.
_FEWEST_SAME = 0.5
_STRANGERS = "fewer than half of the most probable tokens are the same: are the two made from one checkpoint?"


def proof_data(proof: LanguageProof) -> JsonObject:
    """The data of a proof."""
    return {**to_object(proof), "passed": proof.passed}


def show_proof(proof: LanguageProof, display: Display, places: Sequence[Path] = ()) -> None:
    """Print a proof; with -v the figures of each range of positions, too."""
    if display.as_json:
        print_json(proof_data(proof))
        return
    if display.quiet:
        return
    facts = proof_facts(proof)
    if display.one_line:
        click.echo(f"{facts[0][1]} {proof.decoder} {times(_ratio(proof))} smaller KL {proof.divergence.kl.value:.4g} "
                   f"perplexity x{proof.divergence.perplexity_ratio.value:.4f}")  # fmt: skip
        return
    width = max(len(subject) for subject, _ in facts)
    for subject, text in facts:
        click.echo(f"{subject:<{width}}  {text}")
    for place in places:
        click.echo(f"{'report':<{width}}  {place}")
    if display.verbose:
        out = table("By the number of tokens before the one that is predicted", *_POSITIONS)
        for row in _position_rows(proof):
            out.add_row(*row)
        console().print(out)


def report_places(names: Sequence[str], *, force: bool) -> list[Path]:
    """Places of the reports of a proof.

    Raises:
        RecipeError: a name with another ending, or no name.
        OutputError: a report cannot be written there, or exists already.
    """
    places = [Path(name) for name in dict.fromkeys(names)]
    for place in places:
        if place.suffix not in _ENDINGS:
            raise RecipeError(f"report is {str(place)!r}, expected a name that ends in {' or '.join(_ENDINGS)}")
        refuse_taken(place, force=force)
    return places


def write_reports(proof: LanguageProof, places: Sequence[Path]) -> None:
    """Write a proof to files.

    Raises:
        OutputError: one cannot be written.
    """
    for place in places:
        data = proof_data(proof)
        positions = PageTable(
            "By the number of tokens before the one that is predicted", _POSITIONS, _position_rows(proof)
        )
        page = Page(f"{proof.decoder} against {proof.original}", proof_facts(proof), [positions])
        forms = {
            ".html": partial(render_page, page, data),
            ".md": partial(render_facts, page),
            ".json": partial(as_text, data),
        }
        with atomically(place) as stream:
            stream.write(forms[place.suffix]().encode(errors="backslashreplace"))


def proof_facts(proof: LanguageProof) -> list[tuple[str, str]]:
    """A proof as subjects and sentences."""
    figures = proof.divergence
    part = "every token after the first" if proof.first == 1 else "the second half of each"
    return [
        ("verdict", "FAILED" if proof.missed else "PASSED" if proof.is_bounded else _UNBOUNDED),
        *(("missed", sentence) for sentence in proof.missed),
        *([("caution", _STRANGERS)] if figures.same_top.value < _FEWEST_SAME else []),
        ("folder", f"{proof.decoder} against {proof.original}"),
        ("size", f"{size(proof.bytes)}, {smaller(_ratio(proof))} than {size(proof.original_bytes)}"),
        ("perplexity", f"{_estimate(figures.perplexity)}; original {_estimate(figures.original_perplexity)}"),
        ("perplexity ratio", _estimate(figures.perplexity_ratio)),
        (
            "KL divergence",
            f"{_estimate(figures.kl)} nats; 99 % below {figures.kl_quantile:.3g}, largest {figures.kl_largest:.3g}",
        ),
        ("same top token", f"{figures.same_top.value:.2%} ± {figures.same_top.error:.2%}"),
        ("probabilities", f"of the text's tokens differ by {figures.probability_rms:.2%} (root mean square)"),
        ("text", f"{proof.text}: {figures.tokens} tokens in {proof.windows} windows of {proof.window}, {part}"),
    ]


def _position_rows(proof: LanguageProof) -> list[list[str]]:
    return [
        [
            f"{part.first} to {part.last}",
            str(part.tokens),
            f"{part.original_perplexity:.5g}",
            f"{part.perplexity:.5g}",
            _estimate(part.kl),
            f"{part.same_top:.2%}",
        ]
        for part in proof.divergence.positions
    ]


def _estimate(estimate: Estimate) -> str:
    """A figure and its error, to the second digit of the error.

    >>> _estimate(Estimate(12.34567, 0.0123))
    '12.346 ± 0.012'
    >>> _estimate(Estimate(1.205e-11, 5.9e-13))
    '1.2e-11 ± 6e-13'
    """
    value, error = estimate
    if not 0 < error < float("inf"):
        return f"{value:.5g}"
    if abs(value) < _SMALL:
        return f"{value:.2g} ± {error:.1g}"
    digits = min(max(0, 1 - int(f"{error:e}".partition("e")[2])), _MOST_DIGITS)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _ratio(proof: LanguageProof) -> float:
    return proof.original_bytes / proof.bytes


def show_speeds(rows: Sequence[DecoderSpeed], names: Sequence[str]) -> None:
    """Print speeds of decoder folders.

    Args:
        rows: the figures.
        names: names of the folders.
    """
    first = rows[0]
    titles = (
        "decoder",
        "+>faster",
        "+>tokens/s",
        ">prompt faster",
        ">prompt tokens/s",
        ">first token",
        ">size",
        ">memory",
        ">load",
    )
    out = table(f"Benchmark: a prompt of {first.prompt_tokens} tokens, and {first.tokens} tokens after it", *titles)
    for row, name in zip(rows, names, strict=True):
        out.add_row(
            name, speed(row.ratio, row.interval), f"{row.speed:.4g}", speed(row.prompt_ratio, row.prompt_interval),
            f"{row.prompt_speed:.4g}", milliseconds(row.first_token_seconds), f"{size(row.bytes)}{_as_large(row, first)}",
            size(row.resident_bytes), milliseconds(row.load_seconds),
        )  # fmt: skip
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    out.caption = f"{threads}, {first.clock} time, medians of {first.rounds} interleaved rounds"
    screen = console()
    screen.print(out)
    if first.interval is None:
        say(
            screen,
            f"?: fewer than {FEWEST_ROUNDS} rounds show no interval in which a ratio lies; leave out --rounds",
            style="yellow",
        )
    say_spread({name: row.spread for row, name in zip(rows, names, strict=True)})
    for row, name in zip(rows, names, strict=True):
        if row.differs:
            say(
                screen,
                f"{name} {row.differs}: tokens of both are not the same piece of text",
                label="warning: ",
                style="yellow",
            )


def _as_large(row: DecoderSpeed, first: DecoderSpeed) -> str:
    """The ratio of sizes to the first folder."""
    return "" if row is first else f" ({smaller(row.size_ratio)})"
