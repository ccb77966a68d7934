"""``onnxquant list``."""

from __future__ import annotations

import click
from rich.console import Console

from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.inspect.installation import Installation, SolverInfo, installation
from onnxquant.interchange.files import descriptions
from onnxquant.json_data import to_json, to_object
from onnxquant.report.table import say
from onnxquant.report.terminal import table

# Kinds of things that are listed, by the names that the command takes; each but containers is a field of ``Installation``.
_KINDS = {
    "formats": "formats",
    "targets": "targets",
    "solvers": "solvers",
    "passes": "passes",
    "methods": "calibration_methods",
    "recipes": "recipes",
    "clients": "clients",
    "containers": "containers",
    "kernels": "instruction_sets",
}


@click.command("list", short_help="List formats, targets, clients, solvers ...")
@click.argument("kind", type=click.Choice(list(_KINDS)), required=False)
@json_option
@errors_become_exit_codes
def list_installation(kind: str | None, as_json: bool) -> None:
    """List formats, targets, solvers, passes, calibration methods, recipes, clients, containers, and kernels.

    Formats come with their bits per weight and the targets that hold them. Those of other packages are listed too.
    With KIND, only that kind is listed.

    \b
    Examples:
      onnxquant list clients
      onnxquant list --json
    """
    contents = installation()
    kinds = list(_KINDS) if kind is None else [kind]
    if as_json:
        entries = to_object(contents) | {"containers": to_json(descriptions())}
        print_json({_KINDS[k]: entries[_KINDS[k]] for k in kinds})
        return
    screen = console()
    for place, one in enumerate(kinds):
        if place:
            screen.print()
        _show(screen, contents, one)


def _show(screen: Console, contents: Installation, kind: str) -> None:
    """Print the things of one kind."""
    if kind == "formats":
        _show_formats(screen, contents)
    elif kind == "kernels":
        sets = contents.instruction_sets
        compiled, usable = (", ".join(names) or "none" for names in (sets.compiled, sets.usable))
        say(screen, f"{compiled}; usable here: {usable}", label="kernels compiled for: ", style="bold")
    else:
        out = table("", _TITLES[kind], "~what it is")
        for name, summary in _summaries(contents, kind).items():
            out.add_row(name, summary)
        screen.print(out)


_TITLES = {
    "targets": "target", "solvers": "solver", "passes": "pass", "methods": "calibration method", "recipes": "recipe",
    "clients": "client", "containers": "container",
}  # fmt: skip


def _summaries(contents: Installation, kind: str) -> dict[str, str]:
    """Sentences on the things of one kind, by name."""
    if kind == "solvers":
        return {name: _solver(solver) for name, solver in contents.solvers.items()}
    if kind == "containers":
        return {name: f"{info.summary} ({', '.join(info.endings)})" for name, info in descriptions().items()}
    if kind == "passes":
        return {n: info.summary + info.needs_settings * "; options run it" for n, info in contents.passes.items()}
    summaries: dict[str, str] = getattr(contents, _KINDS[kind])
    return summaries


def _show_formats(screen: Console, contents: Installation) -> None:
    out = table("Formats", "format", ">bits", "targets", "parameters", "~what it is")
    for form in contents.formats:
        out.add_row(
            form.name, f"{form.bits_per_weight:.4g}", ", ".join(form.targets), ", ".join(form.parameters), form.summary
        )
    screen.print(out)


def _solver(solver: SolverInfo) -> str:
    needs = ", needs --data" if solver.needs_data else ""
    refuses = f" (not {', '.join(solver.refuses)})" if solver.refuses else ""
    return f"{solver.summary}{needs}{refuses}"
