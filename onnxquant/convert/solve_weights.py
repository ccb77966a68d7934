"""Codes that solvers choose for the weights of a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
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
from onnxquant.recipe.progress import Progress
from onnxquant.solvers import jobs, solver_named
from onnxquant.solvers.rtn import Rtn

LARGEST = 2 << 30
"""Bytes of the largest Gram matrix that a weight is solved by: that of 16,384 columns. Solving takes two of them."""


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
    options, count = context.options, weights.counter(context.progress)
    without_inputs = dict.fromkeys(weights.sites)
    if feeds is not None:
        main = context.document.proto.graph
        readers = {name: r for name, site in weights.sites.items() if (r := nodes_showing_the_input(site, main))}
        names = {weights.sites[name].tensor.name: name for name in readers}
        nodes = [node for of_weight in readers.values() for node in of_weight]
        # Without a folder of the user's nothing outlives the run: a digest of the model would be for nothing.
        origin = _origin(context, feeds) if options.work else ""

        def is_solved(tensor: str) -> bool:
            return results.take(weights.task(names[tensor], origin))

        earlier_run = EarlierRun(context.folder / f"stages-{origin}", is_solved) if origin else None
        batch: list[jobs.Task] = []
        for tensor, gram, inputs in grams(
            context.document, nodes, feeds, largest=LARGEST, threads=options.threads, progress=context.progress,
            earlier_run=earlier_run,
        ):
            del without_inputs[names[tensor]]
            batch.append(weights.task_with_inputs(names[tensor], gram, inputs, origin))
            del gram  # it goes with its task
            if len(batch) >= options.jobs:
                jobs.run(batch, results, options.jobs, count)
                batch = []
        jobs.run(batch, results, options.jobs, count)
    for name in without_inputs:
        # A Gram matrix may be too large. A weight whose solver needs one is then rounded to nearest.
        if name not in results and not solver_named(weights.decisions[name].solver).needs_inputs:
            jobs.run([weights.task(name)], results, 1, count)


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

    def task(self, name: str, origin: str = "") -> jobs.Task:
        """The task of a weight whose inputs are not known, or are those of an origin."""
        site, decision = self.sites[name], self.decisions[name]
        matrix = decision.clipped(site.view.matrix(self._document.array(site.tensor)))
        order = self._orders.get(name) if decision.format.permuted else None
        if order is not None:
            matrix = matrix[:, order]
        return jobs.Task(name, decision.format.with_(permuted=False), decision.solver, matrix, order=order, origin=origin)

    def task_with_inputs(self, name: str, gram: NDArray[np.float64], count: int, origin: str) -> jobs.Task:
        """The task of a weight with the Gram matrices of its inputs, and the number of inputs."""
        task = self.task(name, origin)
        ordered = gram if task.order is None else gram[:, task.order][:, :, task.order]
        return replace(task, gram=ordered, count=count)

    def counter(self, progress: Progress) -> Callable[[jobs.Task], None]:
        """A callback for each solved weight, which tells the progress."""
        total, solved = sum(s.elements for s in self.sites.values()), 0

        def count(task: jobs.Task) -> None:
            nonlocal solved
            solved += self.sites[task.name].elements
            progress("solving", solved / total)

        return count
