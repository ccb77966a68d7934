"""The report on a terminal: tables first, and the verdict last, where the reader's eye is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.plan.decision import EncodeDecision, KeepDecision
from onnxquant.report import rows
from onnxquant.report.data import ReportData, SiteResult
from onnxquant.report.units import decibels, figure, size
from onnxquant.report.verdict import verdict_of
from onnxquant.report.warnings import warnings
from onnxquant.solvers.rtn import Rtn
from onnxquant.validation.metric import MetricResult
from onnxquant.validation.proof import Proof, Structure

# Contributions, and parts of outputs, that are shown.
_SHOWN = 25
_SHOWN_FILES = 4


def table(title: str, *columns: str) -> Table:
    """A table in the house style: text to the left, figures to the right."""
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        out.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return out


def show(report: ReportData, console: Console, *, verbose: bool) -> None:
    """Print a report: a plan when nothing was written yet, else what was done and proven.

    Args:
        report: the report.
        console: the terminal.
        verbose: show every weight, and the changes that passes made.
    """
    for note in report.notes if verbose else []:
        console.print(f"[dim]{escape(note)}[/dim]")
    _show_weights(report, console, verbose=verbose)
    if report.search is not None:
        _print(console, "Best choices of formats by size", rows.CHOICES, rows.choices(report))
    _print(console, "Activations", rows.FACTS, rows.activations(report))
    if verbose:
        details = rows.activation_details(report.activations, report.proof)
        _print(console, "Activations by name", ("node", "what"), details)
    if report.proof:
        _show_proof(report, report.proof, console, verbose=verbose)
    if report.choice is not None:
        title = f"Ways tried for goal {report.choice.goal}: {report.choice.bound}"
        _print(console, title, rows.ATTEMPTS, rows.attempts(report))
    if (text := rows.preparation(report)) is not None:
        console.print(f"[bold]samples[/bold] {escape(text)}", soft_wrap=True)
    for warning in warnings(report):
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    _show_verdict(report, console)


def _print(console: Console, title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table, unless it is empty."""
    out = table(title, *columns)
    for line in lines:
        out.add_row(*map(escape, line))
    if out.row_count:
        console.print(out)


def _show_weights(report: ReportData, console: Console, *, verbose: bool) -> None:
    if verbose and report.sites:
        console.print(_sites(report.sites))
    elif report.planned:
        console.print(_sites([s for s in report.sites if s.decision.role]))
        if others := [s for s in report.sites if not s.decision.role]:
            console.print(_groups(others))
    elif report.encoded:
        console.print(_groups(report.sites))


def _sites(sites: list[SiteResult]) -> Table:
    out = table("Weights", "weight", "role", "shape", "format", "target", ">bytes", ">bits", ">SQNR", "why")
    for site in sites:
        decision = site.decision
        out.add_row(
            escape(decision.name), decision.role, "x".join(map(str, decision.shape)),
            f"[dim]{decision.dtype}[/dim]" if isinstance(decision, KeepDecision) else _format(decision),
            decision.target or "", size(decision.nbytes), f"{decision.bits_per_weight:.2f}",
            decibels(site.error.sqnr_db) if site.error else "", f"[dim]{escape(rows.why(site))}[/dim]",
        )  # fmt: skip
    return out


def _format(decision: EncodeDecision) -> str:
    """Format of an encoded weight, with its solver where that is not the usual one."""
    return decision.format.name + (f" ({decision.solver})" if decision.solver != Rtn.name else "")


def _groups(sites: list[SiteResult]) -> Table:
    """Weights of one kind in one row each."""
    groups: dict[tuple[str, str, str], list[SiteResult]] = {}
    in_float: dict[str, list[SiteResult]] = {}
    for site in sites:
        decision = site.decision
        if isinstance(decision, EncodeDecision):
            target = decision.target + (", folded" if decision.folded else "")
            groups.setdefault((decision.role, _format(decision), target), []).append(site)
        else:
            in_float.setdefault(decision.reason, []).append(site)
    out = table("Weights", "what", "format", "target", ">weights", ">before", ">after", ">bits", ">lowest SQNR")
    for (role, form, target), members in groups.items():
        worst = min((s.error.sqnr_db for s in members if s.error), default=None)
        out.add_row(role, form, target, *_sums(members), "" if worst is None else decibels(worst))
    for reason, members in sorted(in_float.items(), key=lambda group: -sum(s.decision.nbytes for s in group[1])):
        out.add_row(f"[dim]in float: {escape(reason)}[/dim]", members[0].decision.dtype, "", *_sums(members), "")
    return out


def _sums(members: list[SiteResult]) -> tuple[str, str, str, str]:
    """Number, bytes before and after, and bits per weight."""
    before = sum(s.decision.float_bytes for s in members)
    after = sum(s.decision.nbytes for s in members)
    elements = sum(s.decision.elements for s in members)
    return str(len(members)), size(before), size(after), f"{8 * after / max(elements, 1):.2f}"


def _show_proof(report: ReportData, proof: Proof, console: Console, *, verbose: bool) -> None:
    if not report.encoded:
        if verbose:
            _show_weight_errors(report, console)
        _print(console, "Structure", rows.FACTS, _structure(proof.structure))
    _show_contributions(report, console)
    feeds = proof.feeds
    title = f"Outputs on {feeds.samples} {_kind_of_samples(feeds)}samples ({_source(feeds)})" if feeds else "Outputs"
    _print(console, title, rows.OUTPUTS, rows.outputs(report))
    _print(console, "Quality, worst first", rows.PARTS, rows.parts(report)[:_SHOWN])
    if proof.metric:
        _print(console, "Metric", ("function", ">original", ">quantized", ">at least"), [_metric(proof.metric)])
    _print(console, "Cost", rows.COSTS, [c.cells for c in rows.costs(report)])
    for name, ops in (("stock", proof.kernels.stock), ("library", proof.kernels.library)):
        if ops is not None:
            console.print(f"[bold]kernels[/bold] ({name}): {', '.join(f'{op} {n}' for op, n in ops.items())}")


def _source(feeds: SampleOrigin) -> str:
    """The source of samples, with the names of a few of them."""
    names = ", ".join((feeds.files or ())[:_SHOWN_FILES])
    more = ", ..." if len(feeds.files or ()) > _SHOWN_FILES else ""
    return f"{feeds.source}: {names}{more}" if names else feeds.source


def _kind_of_samples(feeds: SampleOrigin) -> str:
    """Whether the file was made from the samples, for a title."""
    return "" if feeds.apart is None else "held-out " if feeds.apart else "calibration "


def _show_weight_errors(report: ReportData, console: Console) -> None:
    """Print the errors of a comparison's weights, the worst first."""
    shown = ("name", "format", "target", "sqnr_db", "max_error", "mean_error", "sum_test", "gradient_test")
    titles = [f"{'>' * number}{title}" for field, title, number in rows.SITES if field in shown]
    weights = sorted(rows.sites(report), key=lambda row: row.sqnr_db if row.sqnr_db is not None else 0.0)
    _print(console, "Weights, worst first", titles, [[figure(row.value(f)) for f in shown] for row in weights])


def _show_contributions(report: ReportData, console: Console) -> None:
    lines = rows.contributions(report)
    title = "Contribution of each site: the outputs if it alone were in float"
    _print(console, title, rows.CONTRIBUTIONS, lines[:_SHOWN])
    if len(lines) > _SHOWN:
        console.print(f"[dim]{len(lines) - _SHOWN} sites that contribute less: --json[/dim]")


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


def _show_verdict(report: ReportData, console: Console) -> None:
    verdict, proof = verdict_of(report), report.proof
    color = verdict.state.color
    name = f"{report.source} -> {report.output}" if report.planned else str(report.output or report.source)
    figures = ", ".join(verdict.figures(report.original_bytes, report.final_bytes))
    console.print(
        f"[{color}]{verdict.state}[/{color}] {escape(name)}: {figures}{'; nothing was written' * report.planned}",
        soft_wrap=True,
    )
    for note in proof.notes if proof else []:
        console.print(f"  [dim]{escape(note)}[/dim]")
    for problem in report.problems:
        console.print(f"  [red]-[/red] {escape(problem)}")
    console.print(f"[bold]next[/bold] {escape(verdict.next)}", soft_wrap=True)
