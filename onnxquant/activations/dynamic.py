"""Dynamic activations: rounded per call, so that no ranges are searched for.

With samples, smoothed functions are tried, products that are slower on integers get their weights by the rules, and LSTMs
are tried on integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from onnxquant import runtime
from onnxquant.activations.calibrated import MAGNITUDES, largest_magnitudes
from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.equal_functions import smoothed_copies
from onnxquant.activations.pair_room import FOR_CERTAINTY_DB, with_room_for_pairs
from onnxquant.activations.plan import ActivationPlan, DynamicActivations
from onnxquant.activations.recurrent import layers, with_fast_layers, with_layers
from onnxquant.activations.slow_kernels import LEAST_SECONDS, slow_kernels
from onnxquant.activations.slow_on_clients import measured, slow_on_clients
from onnxquant.activations.time_budget import TimeBudget
from onnxquant.activations.weights import dynamic_sites
from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import JUDGED, Feeds, spread
from onnxquant.calibration.folds import undivided
from onnxquant.calibration.samples import SYNTHETIC, synthetic_samples
from onnxquant.calibration.shapes import shapes_of
from onnxquant.graph.io import Document
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import Site, find_sites
from onnxquant.numerics.arrays import Doubles
from onnxquant.plan.context import Context
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import Effort
from onnxquant.targets import Activations


def plan_dynamic(context: Context) -> ActivationPlan:
    """Plan dynamic activations for every product whose weight can be int8 per channel, and for LSTMs that gain by it.

    Args:
        context: context with the prepared float model; without samples nothing is tried.

    Raises:
        FeedError: the samples do not fit.
    """
    document, rules, options, samples = context.document, context.rules, context.options, context.samples
    possible = layers(document, rules)
    chosen = [layer for layer in possible if layer.is_chosen]
    left_out = _slow_on_clients(context)
    best = _planned(document, rules, left_out)
    if samples is None or not (best.sites.multiplied or possible):
        best = with_layers(best, chosen, rules) if chosen else best
        return _with_room_for_clients(best, context) if best.sites.multiplied else best
    threads, budget = options.threads, TimeBudget(Effort(options.effort), context.progress, options.seconds())
    split = samples.for_calibration(document)
    judging = undivided(spread(split.judging, JUDGED))
    runner = CandidateRunner(document, rules, judging, threads, judge=options.judge)
    if options.smooth and best.sites.multiplied:
        visible = _outputs(document).union(entry.name for entry in document.proto.graph.input)
        inputs = [u.node.input[0] for s in _multiplied(best) for u in s.served(UseKind.PRODUCT)]
        observers = {x: [MAGNITUDES] for x in inputs if x in visible}
        with budget.first_pass():
            statistics = collect(document, split.calibrating, observers, threads=threads, progress=budget.progress)
        score = runner.score(best).criterion
        # A Mul of its own would cost more time in each call than its decibels are worth.
        copies = smoothed_copies(document, largest_magnitudes(statistics, MAGNITUDES), insert=False)
        for change, copy in copies.items():
            candidate = _planned(copy, rules, left_out)
            smoothed = budget.attempt(change, partial(runner.score, candidate, budget.progress))
            if smoothed is not None and smoothed.criterion > score:
                best, score = candidate, smoothed.criterion
    if best.sites.multiplied and runner.seconds >= LEAST_SECONDS:
        best = _without_slow_products(best, runner, budget)
    best = with_layers(best, chosen, rules) if chosen else best
    best = with_fast_layers(best, [layer for layer in possible if not layer.is_chosen], context, runner, budget)
    return _with_room_for_pairs(best, rules, runner, split.calibrating)


def _planned(document: Document, rules: Recipe, left_out: Mapping[str, str]) -> ActivationPlan:
    """A plan of all products.

    Args:
        document: the float model.
        rules: the rules of the recipe.
        left_out: weights whose products stay in float for clients, with the reason.
    """
    sites = dynamic_sites(document, rules)
    sites = replace(sites, multiplied=sites.multiplied.difference(left_out))
    activations = DynamicActivations(integer_kernels=len(sites.multiplied), slow_on_clients=left_out)
    return ActivationPlan(document, sites, activations)


def _slow_on_clients(context: Context) -> dict[str, str]:
    """Weights whose products are slower on integers on a client that the file is for, with the reason."""
    document, clients, samples, threads = context.document, context.rules.clients, context.samples, context.options.threads
    if not measured(clients):
        return {}
    feed = next(iter(samples.for_calibration(document).judging)) if samples is not None else None
    shapes = shapes_of(document, context.options.dims(), feed, threads)
    slow = slow_on_clients(document, clients, Activations.DYNAMIC, shapes)
    sites, kind = find_sites(document)[0], UseKind.PRODUCT
    return {s.name: kernel.reason for s in sites for use in s.served(kind) if (kernel := slow.get(use.node.output[0]))}


def _multiplied(plan: ActivationPlan) -> list[Site]:
    return [site for site in find_sites(plan.document)[0] if site.name in plan.sites.multiplied]


def _with_room_for_pairs(best: ActivationPlan, rules: Recipe, runner: CandidateRunner, more: Feeds) -> ActivationPlan:
    """A plan that loses little on CPUs without VNNI: no sum may be cut off at all where that costs other CPUs little."""
    sites, outputs = find_sites(best.document)[0], _outputs(best.document)
    hidden = {  # in If, Loop or Scan no sum can be observed
        site.name: None
        for site in sites
        if site.name in best.sites.multiplied
        and not outputs.issuperset(use.node.output[0] for use in site.served(UseKind.PRODUCT))
    }

    def room(largest: Mapping[str, Doubles | None]) -> ActivationPlan:
        return replace(best, solved=with_room_for_pairs(best.document, largest, rules, best.solved, sites))

    sums = runner.saturating(best, more)
    certain = room({**{name: pairs.possible for name, pairs in sums.items()}, **hidden})
    if not sums:
        return certain
    observed = room({**{name: pairs.observed for name, pairs in sums.items()}, **hidden})
    costs_little = runner.score(certain).typical > runner.score(observed).typical - FOR_CERTAINTY_DB
    return certain if costs_little else observed


def _outputs(document: Document) -> set[str]:
    """Tensors that the nodes of the main graph compute."""
    return {output for node in document.proto.graph.node for output in node.output}


def _with_room_for_clients(best: ActivationPlan, context: Context) -> ActivationPlan:
    """A plan no sum of which is cut off, where the file is for a client that cuts off; made-up samples run it."""
    document, rules, options = context.document, context.rules, context.options
    if not any(client.saturates for client in rules.clients):
        return best
    with runtime.session_of(document, threads=options.threads) as session:
        feeds = synthetic_samples(session, document, options.dims(), SYNTHETIC, options.seed)
    runner = CandidateRunner(document, rules, undivided(feeds), options.threads)
    return _with_room_for_pairs(best, rules, runner, feeds)


def _without_slow_products(best: ActivationPlan, runner: CandidateRunner, budget: TimeBudget) -> ActivationPlan:
    """A plan without the products that make it slower than the float model."""
    readers = {u.node.output[0]: site.name for site in _multiplied(best) for u in site.served(UseKind.PRODUCT)}
    products = [n for n in best.document.proto.graph.node if n.output and n.output[0] in readers]
    weights = best.document.proto.graph.initializer

    def without(outputs: Sequence[str]) -> ActivationPlan:
        names = best.sites.multiplied.difference(readers[output] for output in outputs)
        activations = replace(best.activations, integer_kernels=len(names)) if best.activations else None
        return replace(best, sites=replace(best.sites, multiplied=names), activations=activations)

    return without(slow_kernels(products, weights, without, runner.speedup, budget))
