"""``onnxquant list``."""

from __future__ import annotations

import click

from onnxquant.cli.shared import console, errors_become_exit_codes, json_option, print_json
from onnxquant.inspect.installation import Installation, SolverInfo, installation
from onnxquant.json_data import to_object
from onnxquant.report.table import say
from onnxquant.report.terminal import table


@click.command("list", short_help="List formats, targets, solvers ...")
@json_option
@errors_become_exit_codes
def list_installation(as_json: bool) -> None:
    """List formats, targets, solvers, passes, calibration methods, recipes, and the kernels for this machine.

    Formats come with their bits per weight and the targets that hold them. Those of other packages are listed too.

    \b
    Examples:
      onnxquant list --json
    """
    contents = installation()
    if as_json:
        print_json(to_object(contents))
    else:
        _show(contents)


def _show(contents: Installation) -> None:
    screen = console()
    out = table("Formats", "format", ">bits", "targets", "parameters", "~what it is")
    for form in contents.formats:
        out.add_row(
            form.name, f"{form.bits_per_weight:.4g}", ", ".join(form.targets), ", ".join(form.parameters), form.summary
        )
    screen.print(out)
    sections = {
        "target": contents.targets,
        "solver": {name: _solver(solver) for name, solver in contents.solvers.items()},
        "pass": {
            name: info.summary + info.needs_settings * "; options run it" for name, info in contents.passes.items()
        },
        "calibration method": contents.calibration_methods,
        "recipe": contents.recipes,
    }
    for kind, summaries in sections.items():
        out = table("", kind, "~what it is")
        for name, summary in summaries.items():
            out.add_row(name, summary)
        screen.print()
        screen.print(out)
    screen.print()
    sets = contents.instruction_sets
    compiled, usable = (", ".join(names) or "none" for names in (sets.compiled, sets.usable))
    say(screen, f"{compiled}; usable here: {usable}", label="kernels compiled for: ", style="bold")


def _solver(solver: SolverInfo) -> str:
    needs = ", needs --data" if solver.needs_data else ""
    refuses = f" (not {', '.join(solver.refuses)})" if solver.refuses else ""
    return f"{solver.summary}{needs}{refuses}"
