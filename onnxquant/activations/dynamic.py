"""Dynamic activations: rounded per call, so that no ranges are searched for; with samples, smoothed functions are tried."""

from __future__ import annotations

from onnxquant.activations.calibrated import MAGNITUDES, largest_magnitudes
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.equal_functions import smoothed_copies
from onnxquant.activations.plan import ActivationPlan, DynamicActivations
from onnxquant.activations.weights import dynamic_sites
from onnxquant.calibration.collect import collect
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.plan.context import Context
from onnxquant.recipe.rules import Recipe


def plan_dynamic(context: Context) -> ActivationPlan:
    """Plan dynamic activations for every product whose weight can be int8 per channel.

    Args:
        context: context with the prepared float model; without samples no smoothed functions are tried.

    Raises:
        FeedError: the samples do not fit.
    """
    document, rules, options, samples = context.document, context.rules, context.options, context.samples
    best = _planned(document, rules)
    if samples is None or not options.smooth or not best.sites.multiplied:
        return best
    threads = options.threads
    split = samples.for_calibration(document)
    runner = CandidateRunner(document, rules, split.judging, threads, judge=options.judge)
    inputs = [u.node.input[0] for s in find_sites(document)[0] if s.name in best.sites.multiplied for u in s.uses]
    observers = {x: [MAGNITUDES] for x in inputs}
    statistics = collect(document, split.calibrating, observers, threads=threads, progress=context.progress)
    score = runner.score(best).criterion
    # A Mul of its own would cost more time in each call than its decibels are worth.
    for copy in smoothed_copies(document, largest_magnitudes(statistics, MAGNITUDES), insert=False).values():
        candidate = _planned(copy, rules)
        if (smoothed := runner.score(candidate).criterion) > score:
            best, score = candidate, smoothed
    return best


def _planned(document: Document, rules: Recipe) -> ActivationPlan:
    sites = dynamic_sites(document, rules)
    return ActivationPlan(document, sites, DynamicActivations(integer_kernels=len(sites.multiplied)))
