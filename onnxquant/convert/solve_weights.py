"""From a plan to solved weights: which solver each weight gets, what its inputs were, and the work itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import grams
from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.errors import OutputError, WeightError
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.recipe.options import Options
from onnxquant.solvers import jobs, solver_named
from onnxquant.solvers.rtn import Rtn

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Work:
    """Where and how weights are solved.

    Attributes:
        folder: where results are kept.
        settings: ``jobs``, ``threads``, what --data means.
        progress: told what is done.
        orders: of the columns of weights that are stored in another one.
    """

    folder: Path
    settings: Options
    progress: Progress = lambda stage, done: None
    orders: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)


def decisions_to_solve(plan: Plan, orders: Container[str], solved: Container[str]) -> list[EncodeDecision]:
    """Decisions about weights that are not just rounded to nearest, and not solved yet.

    Args:
        plan: plan with solvers
        orders: names of the weights whose columns are stored in another order
        solved: names of the weights that are solved already
    """
    return [d for d in plan.encoded if (d.solver != Rtn.name or d.name in orders) and d.name not in solved]


def solve(
    document: Document, decisions: Sequence[EncodeDecision], feeds: Feeds | None, work: Work
) -> Mapping[str, Encoded]:
    """Solved weights by name; they lie in files.

    Args:
        document: the float model
        decisions: decisions about the weights
        feeds: samples; None where there are none
        work: folder, settings and progress

    Raises:
        FeedError: the data does not fit the model.
        WeightError: a weight cannot be encoded.
    """
    wanted = {d.name: d for d in decisions}
    results = jobs.Results(work.folder)
    if wanted:
        try:
            _solve(document, wanted, feeds, results, work)
        except WeightError as error:
            raise WeightError(f"{document.name}: {error}; keep it in float with --exclude to go on") from None
    return results


@contextmanager
def workspace(settings: Options) -> Iterator[Path]:
    """The folder for solved weights: the user's, which stays, or a temporary one.

    Raises:
        OutputError: it cannot be made.
    """
    if settings.work is None:
        with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
            yield Path(name)
        return
    folder = Path(settings.work)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None
    yield folder


def _solve(
    document: Document, wanted: Mapping[str, EncodeDecision], feeds: Feeds | None, results: jobs.Results, work: Work
) -> None:
    settings = work.settings
    sites = {s.name: s for s in find(document)[0] if s.name in wanted}
    total, finished = sum(s.elements for s in sites.values()), 0

    def done(task: jobs.Task) -> None:
        nonlocal finished
        finished += sites[task.name].elements
        work.progress("solving", finished / total)

    def task(name: str) -> jobs.Task:
        site, decision = sites[name], wanted[name]
        matrix = site.view.matrix(document.array(site.tensor))
        order = work.orders.get(name) if decision.format.permuted else None
        if order is not None:
            matrix = matrix[:, order]
        return jobs.Task(name, decision.format.with_(permuted=False), decision.solver, matrix, order=order)

    left = dict.fromkeys(sites)
    if feeds is not None:
        main = document.proto.graph
        read = {n: r for n, s in sites.items() if (r := nodes_showing_the_input(s, main))}
        by_tensor = {sites[n].tensor.name: n for n in read}
        readers = [r for several in read.values() for r in several]
        waiting: list[jobs.Task] = []
        for weight, gram, count in grams(document, readers, feeds, threads=settings.threads, progress=work.progress):
            name = by_tensor[weight]
            del left[name]
            one = task(name)
            ordered = gram.copy() if one.order is None else gram[:, one.order][:, :, one.order]
            waiting.append(replace(one, gram=ordered, count=count))
            if len(waiting) >= settings.jobs:
                jobs.run(waiting, results, settings.jobs, done)
                waiting = []
        jobs.run(waiting, results, settings.jobs, done)
    for name in left:  # those whose matrices would be too large are rounded to nearest if their solver needs one
        if not solver_named(wanted[name].solver).needs_inputs:
            jobs.run([task(name)], results, 1, done)
