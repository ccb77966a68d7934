"""The report for people at a terminal: verdict first, then tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxquant.report import activations
from onnxquant.report.data import Report, SiteResult
from onnxquant.report.verdict import FAILED, PASSED, PLANNED, UNPROVEN, decibels, milliseconds, size
from onnxquant.validation.compare import Proof

# Rows of what each site costs.
_WORST = 25


def table(title: str, *columns: str) -> Table:
    """A table in the house style: text to the left, figures to the right."""
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        out.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return out


def show(report: Report, console: Console, *, verbose: bool) -> None:
    """Print a report: a plan when nothing was written yet, else what was done and proven."""
    for note in report.notes if verbose else []:
        console.print(f"[dim]{escape(note)}[/dim]")
    if verbose and report.sites:
        console.print(_sites(report.sites))
    elif report.planned:
        console.print(_sites([s for s in report.sites if s.decision.role]))
        if any(not s.decision.role for s in report.sites):
            console.print(_groups([s for s in report.sites if not s.decision.role]))
    elif report.encoded:
        console.print(_groups(report.sites))
    _show_search(report, console)
    _show_activations(report, console, verbose=verbose)
    if report.proof:
        _show_proof(report, console, verbose=verbose)
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}")
    _verdict(report, console)


def _show_search(report: Report, console: Console) -> None:
    if not report.search:
        return
    out = table("Best choices of formats, by size", ">bits per weight", ">SQNR, predicted", ">SQNR, measured")
    rows = [*report.search["front"], report.search["chosen"]]
    for row in sorted(rows, key=lambda r: float(r["bits_per_weight"])):
        predicted, measured = row["predicted_sqnr_db"], row.get("measured_sqnr_db")
        out.add_row(
            f"{row['bits_per_weight']:.2f}", "exact" if predicted is None else decibels(predicted),
            "" if measured is None else f"{decibels(measured)}, chosen",
        )  # fmt: skip
    console.print(out)


def _show_activations(report: Report, console: Console, *, verbose: bool) -> None:
    if rows := activations.summary(report.made, report.proof):
        out = table("Activations", "what", "value")
        for what, value in rows:
            out.add_row(what, escape(value))
        console.print(out)
    if verbose and (rows := activations.details(report.made, report.proof)):
        out = table("Activations by name", "node", "what")
        for name, what in rows:
            out.add_row(escape(name), escape(what))
        console.print(out)


def _sites(sites: list[SiteResult]) -> Table:
    out = table("Weights", "weight", "role", "shape", "format", "target", ">bytes", ">bits", ">SQNR", "why")
    for s in sites:
        d = s.decision
        why = d.reason if not d.refusals or not d.format else f"{d.reason} (not {'; not '.join(d.refusals)})"
        out.add_row(
            escape(d.name), d.role, "x".join(map(str, d.shape)), _format(s) if d.format else f"[dim]{d.dtype}[/dim]",
            d.target or "", size(d.nbytes), f"{d.bits_per_weight:.2f}",
            decibels(s.error["sqnr_db"]) if s.error else "", f"[dim]{escape(why)}[/dim]",
        )  # fmt: skip
    return out


def _format(site: SiteResult) -> str:
    d = site.decision
    assert d.format
    return d.format.name + (f" ({d.solver})" if d.solver != "rtn" else "")


def _groups(sites: list[SiteResult]) -> Table:
    """Weights of one kind in one row each."""
    groups: dict[tuple[str, str, str], list[SiteResult]] = {}
    left: dict[str, list[SiteResult]] = {}
    for s in sites:
        d = s.decision
        if d.format and d.target:
            groups.setdefault((d.role, _format(s), d.target + (", folded" if d.folded else "")), []).append(s)
        else:
            left.setdefault(d.reason, []).append(s)
    out = table("Weights", "what", "format", "target", ">weights", ">before", ">after", ">bits", ">lowest SQNR")
    for (role, form, target), members in groups.items():
        worst = min((s.error["sqnr_db"] for s in members if s.error), key=_order, default="")
        out.add_row(role, form, target, *_sums(members), decibels(worst) if worst != "" else "")
    for reason, members in sorted(left.items(), key=lambda kv: -sum(s.decision.nbytes for s in kv[1])):
        out.add_row(f"[dim]left: {escape(reason)}[/dim]", members[0].decision.dtype, "", *_sums(members), "")
    return out


def _order(value: float | str) -> float:
    return float(value)


def _sums(members: list[SiteResult]) -> tuple[str, str, str, str]:
    before = sum(s.decision.float_bytes for s in members)
    after = sum(s.decision.nbytes for s in members)
    elements = sum(s.decision.elements for s in members)
    return str(len(members)), size(before), size(after), f"{8 * after / max(elements, 1):.2f}"


def _show_proof(report: Report, console: Console, *, verbose: bool) -> None:
    proof = report.proof
    assert proof
    if not report.encoded and proof.weights and verbose:
        weights = table(
            "Weights, worst first",
            "weight",
            "format",
            "target",
            ">SQNR",
            ">max error",
            ">MSE",
            ">sum test",
            ">gradient z",
        )
        for name, w in sorted(proof.weights.items(), key=lambda kv: _order(kv[1]["sqnr_db"])):
            figures = (decibels(w["sqnr_db"]), f"{w['max_error']:.3g}", f"{w['mse']:.3g}")
            weights.add_row(escape(name), w["format"], w["target"], *figures, *_checks(w))
        console.print(weights)
    if not report.encoded:
        console.print(_structure(proof.structure))
    if proof.damage:
        console.print(_damage(proof.damage))
    if proof.outputs:
        console.print(_outputs(proof))
    if proof.metric:
        console.print(_metric(proof.metric))
    console.print(_costs(proof.sizes, proof.latency, proof.loading))
    for name, ops in proof.kernels.items():
        shown = ", ".join(f"{op} {n}" for op, n in ops.items())
        console.print(f"[bold]kernels[/bold] ({name}): {shown}")


def _checks(weight: Mapping[str, Any]) -> tuple[str, str]:
    """The quick checks of a weight, empty where it could not be judged."""
    if "sum_test" not in weight:
        return "", ""
    return f"{weight['sum_test']['relative_error']:.3g}", f"{weight['gradient_test']['z']:.3g}"


def _outputs(proof: Proof) -> Table:
    out = table(
        f"Outputs on {proof.feeds.get('samples')} samples ({proof.feeds.get('source')})",
        "compared", "output", ">SQNR", ">cosine", ">MSE", ">max error",
    )  # fmt: skip
    for pair, by_name in proof.outputs.items():
        for name, d in by_name.items():
            figures = (f"{d['cosine']:.6f}", f"{d['mse']:.3g}", f"{d['max_error']:.3g}")
            out.add_row(pair, escape(name), decibels(d["sqnr_db"]), *figures)
    return out


def _damage(sites: list[dict[str, Any]]) -> Table:
    out = table(
        "What each site costs: the outputs if it alone were in float", "site", "kind", ">SQNR", ">gain", ">of the error"
    )
    for s in sites[:_WORST]:
        gain = f"{s['gain_db']:+.2f} dB"
        out.add_row(escape(s["name"]), s["kind"], decibels(s["sqnr_db"]), gain, f"{100 * s['share']:.1f} %")
    if len(sites) > _WORST:
        out.caption = f"{len(sites) - _WORST} sites that cost less: --json"
    return out


def _metric(metric: dict[str, Any]) -> Table:
    out = table("Metric", "function", ">original", ">quantized", ">at least")
    figures = (f"{metric[k]:.6g}" for k in ("original", "quantized", "least"))
    out.add_row(escape(metric["name"]), *figures)
    return out


def _structure(structure: dict[str, Any]) -> Table:
    out = table("Structure", "what", "value")
    for key, value in structure.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        out.add_row(key.replace("_", " "), escape(text))
    return out


def _costs(sizes: dict[str, Any], latency: dict[str, Any], loading: dict[str, Any]) -> Table:
    out = table("Cost", "", ">original", ">quantized", ">ratio")
    seconds = latency.get("seconds")
    rows: list[tuple[str, float, float, Callable[[float], str]]] = []
    rows.append(("size", sizes["original_bytes"], sizes["quantized_bytes"], size))
    if seconds:
        rows.append(("latency", seconds["original"], seconds["quantized"], milliseconds))
    if seconds and "quantized, stock" in seconds:
        rows.append(("latency without our library", seconds["original"], seconds["quantized, stock"], milliseconds))
    if loading:
        before, after = loading["original"], loading["quantized"]
        rows.append(("load time", before["seconds"], after["seconds"], milliseconds))
        rows.append(("memory", before["resident_bytes"], after["resident_bytes"], size))
    for name, was, now, form in rows:
        out.add_row(name, form(was), form(now), f"{was / now:.2f}x" if now else "")
    return out


def _verdict(report: Report, console: Console) -> None:
    found, proof = report.verdict, report.proof
    color = {PASSED: "green", FAILED: "red", UNPROVEN: "yellow", PLANNED: "bold"}[found.state]
    name = f"{report.source} -> {report.output}" if report.planned else str(report.output or report.source)
    figures = ", ".join(found.figures(report.original_bytes, report.output_bytes or report.predicted_bytes))
    console.print(
        f"[{color}]{found.state}[/{color}] {escape(name)}: {figures}{'; nothing was written' * report.planned}",
        soft_wrap=True,
    )
    for note in proof.notes if proof else []:
        console.print(f"  [dim]{escape(note)}[/dim]")
    for problem in proof.problems if proof else []:
        console.print(f"  [red]-[/red] {escape(problem)}")
    console.print(f"[bold]next[/bold] {escape(found.next)}", soft_wrap=True)
