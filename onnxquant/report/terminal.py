"""The report on a terminal: the verdict and its figures in a few lines; tables of everything else on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.text import Text

from onnxquant.plan.decision import Decision, EncodeDecision, KeepDecision
from onnxquant.report import rows, ways, words
from onnxquant.report.data import ReportData, SiteResult
from onnxquant.report.table import Table, say
from onnxquant.report.units import decibels, figure, size
from onnxquant.report.verdict import verdict_of
from onnxquant.report.warnings import warnings
from onnxquant.solvers.rtn import Rtn
from onnxquant.validation.metric import MetricResult
from onnxquant.validation.proof import Proof, Structure

# Contributions, and parts of outputs, that are shown.
_SHOWN = 25
# Problems and warnings, and ways that were tried, that are shown without -v.
_SHOWN_REMARKS, _SHOWN_WAYS = 2, 8
# Width of the subjects of the first lines.
_SUBJECT = 10
_FACTS = ("what", "~value")
_NO_REPORT = "-v shows every weight, --report .html writes a page"


def table(title: str, *columns: str) -> Table:
    """A table in the house style; see ``Table`` for the marks of columns."""
    return Table(title, *columns)


def show(report: ReportData, console: Console, *, verbose: bool, places: Sequence[Path] = ()) -> None:
    """Print a report: the verdict, its figures, and what to do next; with -v everything that is known.

    Args:
        report: the report.
        console: the terminal.
        verbose: show every weight, and the changes that passes made.
        places: files that the report was written to.
    """
    _show_verdict(report, console, verbose=verbose, places=places)
    _show_choice(report, console, verbose=verbose)
    if not (verbose or report.planned):
        return
    _show_weights(report, console, verbose=verbose)
    if report.search is not None:
        _print(console, "Best choices of formats by size", rows.CHOICES, rows.choices(report))
    _print(console, "Activations", _FACTS, rows.activations(report))
    if not verbose:
        return
    _print(console, "Activations by name", ("node", "~what"), rows.activation_details(report.activations, report.proof))
    if report.proof:
        _show_proof(report, report.proof, console)
    if report.notes:
        console.print()
    for note in report.notes:
        say(console, note, label="- ")


def _print(console: Console, title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table after an empty line, unless it is empty."""
    out = table(title, *columns)
    for line in lines:
        out.add_row(*line)
    _print_table(console, out)


def _print_table(console: Console, out: Table) -> None:
    if out.row_count:
        console.print()
        console.print(out)


def _show_verdict(report: ReportData, console: Console, *, verbose: bool, places: Sequence[Path]) -> None:
    """Print the verdict, its figures in words, the next step, and what speaks against the file."""
    verdict = verdict_of(report)
    name = f"{report.source} -> {report.output}" if report.planned else str(report.output or report.source)
    title = Text.assemble((str(verdict.state), f"bold {verdict.state.color}"), f" {name}")
    if verdict.assumption is not None and not verdict.state.is_failure:
        title.append(f", if the model takes {verdict.assumption.what}")
    console.print(title.append("; nothing was written" * report.planned), soft_wrap=True)
    for problem in _few(report.problems, verbose=verbose):
        _say(console, "problem", problem, "red")
    for subject, text in words.lines(report, verdict):
        _say(console, subject, text)
    for warning in _few(warnings(report), verbose=verbose):
        _say(console, "warning", warning, "yellow")
    for note in report.proof.notes if report.proof and verbose else ():
        _say(console, "note", note)
    _say(console, "next", verdict.next, "bold")
    _say(console, "report", ", ".join(map(str, places)) or _NO_REPORT)


def _few(remarks: Sequence[str], *, verbose: bool) -> list[str]:
    """The first remarks, and how many more there are."""
    if verbose or len(remarks) <= _SHOWN_REMARKS:
        return list(remarks)
    return [*remarks[:_SHOWN_REMARKS], f"{len(remarks) - _SHOWN_REMARKS} more with -v"]


def _say(console: Console, subject: str, text: str, style: str = "dim") -> None:
    """Print a subject, and what there is to say about it."""
    say(console, text, label=f"  {subject:<{_SUBJECT}}", style=style)


def _show_choice(report: ReportData, console: Console, *, verbose: bool) -> None:
    """Print the ways that were tried; without -v the first ones."""
    if report.choice is None:
        return
    out = table(f"Ways tried for goal {report.choice.goal}: {report.choice.bound}", *ways.WAYS)
    lines = ways.shortened(report.choice)
    for line in lines if verbose else lines[:_SHOWN_WAYS]:
        out.add_row(*line)
    if len(lines) > _SHOWN_WAYS and not verbose:
        out.caption = f"{len(lines) - _SHOWN_WAYS} more with -v"
    _print_table(console, out)


def _show_weights(report: ReportData, console: Console, *, verbose: bool) -> None:
    if verbose and report.sites:
        _print_table(console, _sites(report.sites))
    elif report.planned:
        _print_table(console, _sites([s for s in report.sites if s.decision.role]))
        _print_table(console, _groups([s for s in report.sites if not s.decision.role]))
    if verbose and report.encoded:
        _print_table(console, _groups(report.sites))


def _sites(sites: list[SiteResult]) -> Table:
    out = table("Weights", "weight", "shape", "format", "target", ">bytes", ">bits", ">SQNR", ">MSE", "role", "~why")
    for site in sites:
        decision, error = site.decision, site.error
        out.add_row(
            decision.name, "x".join(map(str, decision.shape)), _format(decision), decision.target or "",
            size(decision.nbytes), f"{decision.bits_per_weight:.2f}", decibels(error.sqnr_db) if error else "",
            figure(error.mse) if error else "", decision.role, rows.why(site),
            style="dim" if isinstance(decision, KeepDecision) else "",
        )  # fmt: skip
    return out


def _format(decision: Decision) -> str:
    """Format of a weight, with its solver where that is not the usual one."""
    if isinstance(decision, KeepDecision):
        return decision.dtype
    return decision.format.name + (f" ({decision.solver})" if decision.solver != Rtn.name else "")


def _groups(sites: list[SiteResult]) -> Table:
    """Weights of one kind in one row each."""
    groups: dict[tuple[str, str, str], list[SiteResult]] = {}
    in_float: dict[tuple[str, str], list[SiteResult]] = {}
    for site in sites:
        decision = site.decision
        if isinstance(decision, EncodeDecision):
            target = decision.target + (", folded" if decision.folded else "")
            groups.setdefault((decision.role, _format(decision), target), []).append(site)
        else:
            in_float.setdefault((decision.reason, decision.dtype), []).append(site)
    out = table(
        "Weights by kind", "what", "format", "target", ">weights", ">before", ">after", ">lowest SQNR", ">average MSE",
        ">bits", "~why",
    )  # fmt: skip
    for (role, form, target), members in groups.items():
        worst = min((s.error.sqnr_db for s in members if s.error), default=None)
        errors = [s.error.mse for s in members if s.error]
        out.add_row(
            role, form, target, *_sums(members), "" if worst is None else decibels(worst),
            figure(words.average_mse(errors)) if errors else "", _bits(members), "",
        )  # fmt: skip
    for (reason, dtype), members in sorted(in_float.items(), key=lambda g: -sum(s.decision.nbytes for s in g[1])):
        out.add_row("in float", dtype, "", *_sums(members), "", "", _bits(members), reason, style="dim")
    return out


def _sums(members: list[SiteResult]) -> tuple[str, str, str]:
    """Number, and bytes before and after."""
    before = sum(s.decision.float_bytes for s in members)
    return str(len(members)), size(before), size(sum(s.decision.nbytes for s in members))


def _bits(members: list[SiteResult]) -> str:
    """Bits per weight."""
    elements = sum(s.decision.elements for s in members)
    return f"{8 * sum(s.decision.nbytes for s in members) / max(elements, 1):.2f}"


def _show_proof(report: ReportData, proof: Proof, console: Console) -> None:
    if not report.encoded:
        _show_weight_errors(report, console)
        _print(console, "Structure", _FACTS, _structure(proof.structure))
    _show_contributions(report, console)
    _print(console, "Outputs", rows.OUTPUTS, rows.outputs(report))
    _print(console, "Quality, worst first", rows.PARTS, rows.parts(report)[:_SHOWN])
    if proof.metric:
        _print(console, "Metric", ("function", ">original", ">quantized", ">at least"), [_metric(proof.metric)])
    _print(console, "Cost", rows.COSTS, [c.cells for c in rows.costs(report)])
    kernels = [
        (name, ", ".join(f"{op} {n}" for op, n in ops.items()))
        for name, ops in (("stock", proof.kernels.stock), ("library", proof.kernels.library))
        if ops is not None
    ]
    _print(console, "Kernels", ("with", "~ops"), kernels)


def _show_weight_errors(report: ReportData, console: Console) -> None:
    """Print the errors of a comparison's weights, the worst first."""
    shown = ("name", "format", "target", "sqnr_db", "mse", "max_error", "mean_error", "sum_test", "gradient_test")
    titles = [f"{'>' * number}{title}" for field, title, number in rows.SITES if field in shown]
    weights = sorted(rows.sites(report), key=lambda row: row.sqnr_db if row.sqnr_db is not None else 0.0)
    _print(console, "Weights, worst first", titles, [[figure(row.value(f)) for f in shown] for row in weights])


def _show_contributions(report: ReportData, console: Console) -> None:
    lines = rows.contributions(report)
    title = "Contribution of each weight or activation: the outputs if it alone were in float"
    _print(console, title, rows.CONTRIBUTIONS, lines[:_SHOWN])
    if len(lines) > _SHOWN:
        console.print(f"[dim]{len(lines) - _SHOWN} that contribute less: --json[/dim]")


def _metric(metric: MetricResult) -> list[str]:
    return [metric.name, *(f"{value:.6g}" for value in (metric.original, metric.quantized, metric.least))]


def _structure(structure: Structure) -> list[tuple[str, str]]:
    lines = []
    for field in fields(structure):
        value = getattr(structure, field.name)
        if isinstance(value, dict):
            text = ", ".join(f"{op} {count}" for op, count in value.items())
        else:
            text = " -> ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        lines.append((field.name.replace("_", " "), text))
    return lines
