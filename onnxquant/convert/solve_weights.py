"""From a plan to solved weights: which solver each weight gets, what its inputs were, and the work itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration import samples as samples_
from onnxquant.calibration.feeds import Data, Feeds, open_feeds
from onnxquant.calibration.gram_matrices import Reader, grams, is_reader
from onnxquant.errors import OutputError, RecipeError, WeightError
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find
from onnxquant.plan.planner import Decision, Plan
from onnxquant.recipe.options import Options
from onnxquant.solvers import jobs, solver_named
from onnxquant.targets import AUTO

Progress = Callable[[str, float], None]
RTN, BEST = "rtn", "gptq"
# At so many bits rounding to nearest is as good as anything.
_ENOUGH_BITS = 8


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


def assign(plan: Plan, document: Document, data: Data | None) -> Plan:
    """The plan with a solver for every weight that is to be encoded.

    Args:
        plan: of the document.
        document: the prepared model.
        data: samples; None: what weights are multiplied with is not known.

    Raises:
        RecipeError: a solver was asked for that needs to know what weights are multiplied with, and there is no data.
    """
    main = document.proto.graph
    weighable = {s.name for s in find(document)[0] if readers_of(s, main)} if data is not None else set()
    decided = (settled(d, known=d.name in weighable, given=data is not None) for d in plan.decisions)
    return replace(plan, decisions=tuple(decided))


def settled(decision: Decision, *, known: bool, given: bool) -> Decision:
    """A decision with its solver.

    Args:
        decision: perhaps with the solver ``auto``.
        known: what the weight is multiplied with can be observed.
        given: there are samples.

    Raises:
        RecipeError: its solver needs samples, and there are none.
    """
    form = decision.format
    if form is None or decision.target in ("qdq", "dynamic"):
        return replace(decision, solver=RTN)
    if decision.solver == AUTO:
        best = known and form.bits < _ENOUGH_BITS and solver_named(BEST).refusal(form) is None
        return replace(decision, solver=BEST if best else RTN)
    if solver_named(decision.solver).needs_inputs and not known:
        if not given:
            raise RecipeError(
                f"solver {decision.solver} needs samples that tell what weights are multiplied with: give --data"
            )
        why = f"{decision.reason}; rounded to nearest: what it is multiplied with cannot be observed"
        return replace(decision, solver=RTN, reason=why)
    return decision


def readers_of(site: Site, main: onnx.GraphProto) -> list[Reader]:
    """The nodes whose inputs tell what a weight is multiplied with; none where they cannot be observed.

    They must be in the main graph and see the weight as its codes are laid out; lookups of a weight that is a product's
    too need none.
    """
    found = []
    for use in site.uses:
        if use.role == "gather":
            continue
        if not is_reader(use.node, use.input) or use.view != site.view or use.graph is not main:
            return []
        dims = site.shape if use.via is None else site.shape[::-1]
        found.append(Reader(use.node, site.tensor.name, dims))
    return found


def solve(
    document: Document, plan: Plan, data: Data | None, work: Work, known: Mapping[str, Encoded] | None = None
) -> Mapping[str, Encoded]:
    """The weights of a plan that are not rounded to nearest, by name; they lie in files.

    Args:
        document: the float model.
        plan: with solvers, as of ``assign``.
        data: samples; None: no solver needs them.
        work: where and how.
        known: weights that are solved already.

    Raises:
        FeedError: the data does not fit the model.
        WeightError: a weight cannot be encoded.
    """
    chosen = [d for d in plan.encoded if d.solver != RTN or d.name in work.orders]
    wanted = {d.name: d for d in chosen if d.name not in (known or {})}
    results = jobs.Results(work.folder)
    if wanted:
        feeds = None if data is None else opened(document, data, work.settings)
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


def opened(document: Document, data: Data, settings: Options) -> Feeds:
    """The samples, read when they are asked for.

    Raises:
        FeedError: they do not fit the model.
    """
    with runtime.session_of(document, threads=settings.threads) as session:
        inputs = samples_.inputs_of(session)
    return open_feeds(data, inputs, limit=settings.calibration_samples, preprocess=settings.preprocess)


def _solve(
    document: Document, wanted: Mapping[str, Decision], feeds: Feeds | None, results: jobs.Results, work: Work
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
        assert decision.format
        matrix = site.view.matrix(document.array(site.tensor))
        order = work.orders.get(name) if decision.format.permuted else None
        if order is not None:
            matrix = matrix[:, order]
        return jobs.Task(name, decision.format.with_(permuted=False), decision.solver, matrix, order=order)

    left = dict.fromkeys(sites)
    if feeds is not None:
        main = document.proto.graph
        read = {n: r for n, s in sites.items() if (r := readers_of(s, main))}
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
