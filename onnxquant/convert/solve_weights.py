"""Codes that solvers choose for the weights of a plan."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import EarlierRun, grams, samples_digest
from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.errors import WeightError
from onnxquant.formats.base import Encoded
from onnxquant.graph import identity
from onnxquant.graph.sites import Site, find_sites
from onnxquant.numerics.arrays import Order
from onnxquant.plan.context import Context
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.recipe.progress import Progress, announce
from onnxquant.solvers import jobs, solver_named
from onnxquant.solvers.rtn import Rtn

LARGEST = 2 << 30
"""Bytes of the largest Gram matrix that a weight is solved by: that of 16,384 columns. Solving takes two of them."""
# Seconds after which the time left is believed, and from which the folder that keeps solved weights is named.
_CERTAIN, _LONG = 5.0, 60.0


def decisions_to_solve(plan: Plan, orders: Container[str], solved: Container[str]) -> list[EncodeDecision]:
    """Decisions about weights that are not just rounded to nearest, and not solved yet.

    Args:
        plan: plan with solvers
        orders: names of the weights whose columns are stored in another order
        solved: names of the weights that are solved already
    """
    return [d for d in plan.encoded if (d.solver != Rtn.name or d.name in orders) and d.name not in solved]


def solve_weights(
    context: Context, decisions: Sequence[EncodeDecision], orders: Mapping[str, Order], feeds: Feeds | None
) -> Mapping[str, Encoded]:
    """Solved weights by name. They lie in files and are read when they are asked for.

    Args:
        context: context with the float model
        decisions: decisions about the weights
        orders: stored order of columns, by weight, where it is another one
        feeds: samples that show the inputs of weights; None where there are none

    Raises:
        WeightError: a weight cannot be encoded.
    """
    results = jobs.Results(context.folder)
    if not decisions:
        return results
    try:
        _solve(context, _WeightsToSolve(context, decisions, orders), feeds, results)
    except WeightError as error:
        raise WeightError(f"{context.document.name}: {error}; keep it in float with --exclude to go on") from None
    return results


def _solve(context: Context, weights: _WeightsToSolve, feeds: Feeds | None, results: jobs.Results) -> None:
    """Solve the weights one after the other as their Gram matrices come, then those whose inputs cannot be observed."""
    options, telling = context.options, weights.progress(context.progress, context.options.work)
    without_inputs = dict.fromkeys(weights.sites)
    if feeds is not None:
        main = context.document.proto.graph
        readers = {name: r for name, site in weights.sites.items() if (r := nodes_showing_the_input(site, main))}
        names = {weights.sites[name].tensor.name: name for name in readers}
        nodes = [node for of_weight in readers.values() for node in of_weight]
        # Without a folder of the user's nothing outlives the run: a digest of the model would be for nothing.
        origin = _origin(context, feeds) if options.work else ""

        def is_solved(tensor: str) -> bool:
            is_there = results.take(weights.task(names[tensor], origin))
            if is_there:
                telling.kept(names[tensor])
            return is_there

        earlier_run = EarlierRun(context.folder / f"stages-{origin}", is_solved) if origin else None
        batch: list[jobs.Task] = []
        for tensor, gram, inputs in grams(
            context.document, nodes, feeds, largest=LARGEST, threads=options.threads, progress=telling.observed,
            earlier_run=earlier_run,
        ):
            del without_inputs[names[tensor]]
            batch.append(weights.task_with_inputs(names[tensor], gram, inputs, origin))
            del gram  # it goes with its task
            if len(batch) >= options.jobs:
                jobs.run(batch, results, options.jobs, telling.solved)
                batch = []
        jobs.run(batch, results, options.jobs, telling.solved)
    for name in without_inputs:
        # A Gram matrix may be too large. A weight whose solver needs one is then rounded to nearest.
        if name not in results and not solver_named(weights.decisions[name].solver).needs_inputs:
            jobs.run([weights.task(name)], results, 1, telling.solved)


def _origin(context: Context, feeds: Feeds) -> str:
    """Digest of what Gram matrices are made of: the float model, and the samples."""
    parts = f"{identity.digest(context.document)} {samples_digest(feeds)}"
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


class _WeightsToSolve:
    """The weights to solve: their decisions and sites by name, and their tasks."""

    def __init__(self, context: Context, decisions: Sequence[EncodeDecision], orders: Mapping[str, Order]) -> None:
        self.decisions = {d.name: d for d in decisions}
        self.sites: dict[str, Site] = {s.name: s for s in find_sites(context.document)[0] if s.name in self.decisions}
        self._document, self._orders = context.document, orders
        self._pruned = context.pruned.pruned.zeros if context.pruned else {}

    def task(self, name: str, origin: str = "") -> jobs.Task:
        """The task of a weight whose inputs are not known, or are those of an origin."""
        site, decision = self.sites[name], self.decisions[name]
        matrix = decision.clipped(site.view.matrix(self._document.array(site.tensor)))
        order = self._orders.get(name) if decision.format.permuted else None
        if order is not None:
            matrix = matrix[:, order]
        return jobs.Task(
            name, decision.format.with_(permuted=False), decision.solver, matrix, order=order, origin=origin,
            keeps_zeros=name in self._pruned,
        )  # fmt: skip

    def task_with_inputs(self, name: str, gram: NDArray[np.float64], count: int, origin: str) -> jobs.Task:
        """The task of a weight with the Gram matrices of its inputs, and the number of inputs."""
        task = self.task(name, origin)
        ordered = gram if task.order is None else gram[:, task.order][:, :, task.order]
        return replace(task, gram=ordered, count=count)

    def progress(self, progress: Progress, work: str | None) -> _SolvingProgress:
        """The progress of solving them.

        Args:
            progress: callback.
            work: folder of the user's that keeps solved weights; None: there is none.
        """
        sizes = {name: site.elements for name, site in self.sites.items()}
        return _SolvingProgress(progress, sizes, is_kept=work is not None)


class _SolvingProgress:
    """Progress of solving, of which observing inputs is a part: both are one stage, so that the time left is that of both.

    Args:
        progress: callback.
        sizes: elements of each weight.
        is_kept: whether a folder keeps solved weights.
    """

    def __init__(self, progress: Progress, sizes: Mapping[str, int], *, is_kept: bool) -> None:
        self._progress, self._sizes, self._is_silent = progress, sizes, is_kept
        self._total, self._solved, self._observed = sum(sizes.values()), set[str](), 0.0
        self._begin = time.monotonic()

    def observed(self, stage: str, done: float, /) -> None:
        """Take note of the part of the inputs that was observed."""
        self._observed = done
        self._tell()

    def solved(self, task: jobs.Task) -> None:
        """Take note of a solved weight."""
        self._solved.add(task.name)
        self._tell()

    def kept(self, name: str) -> None:
        """Take note of a weight that an earlier run has solved."""
        self._solved.add(name)

    def _tell(self) -> None:
        solved = sum(self._sizes[name] for name in self._solved) / self._total
        # Weights are solved as their inputs are observed; without samples, or at the end, solving alone is left.
        done = (solved + max(self._observed, solved)) / 2
        self._progress("solving weights", done)
        spent = time.monotonic() - self._begin
        if self._is_silent or spent < _CERTAIN or not done:
            return
        self._is_silent = True
        left = spent * (1 - done) / done
        if left > _LONG:
            announce(
                self._progress,
                f"solving takes about {left / 60:.0f} min more; --work DIR would keep solved weights, so that a run that is "
                "interrupted can be continued",
            )
