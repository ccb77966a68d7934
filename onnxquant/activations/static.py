"""Static activations: their ranges come from samples, or from saved statistics."""

from __future__ import annotations

from dataclasses import replace

from onnxquant import runtime
from onnxquant.activations.calibrated import saved_statistics
from onnxquant.activations.plan import ActivationPlan
from onnxquant.activations.search import StaticSearch
from onnxquant.activations.settings import StaticSettings
from onnxquant.activations.start import SearchStart
from onnxquant.calibration.folds import SearchSamples, undivided
from onnxquant.calibration.samples import SYNTHETIC, synthetic_samples
from onnxquant.errors import FeedError
from onnxquant.plan.context import Context

# Larger models are written for one division of the samples, not for each fold of them.
_LARGEST_IN_FOLDS = 1 << 28


def plan_static(context: Context) -> ActivationPlan:
    """Calibrate a prepared, simplified model, score ways to quantize its activations, and return the best.

    Args:
        context: context with the float model.

    Raises:
        FeedError: there are no samples, or they do not fit.
        ModelError: nothing can compute on integers.
        StatisticsError: statistics of another model, or none that the method can read.
    """
    document, options = context.document, context.options
    if context.samples is None:
        return _plan_from_statistics(context)
    statistics = saved_statistics(options.calibration, context.original)
    # A tuned file is judged on samples that nothing is learned from.
    in_folds = statistics is None and document.size() <= _LARGEST_IN_FOLDS and not options.tunes
    samples = context.samples.for_search(document, in_folds=in_folds)
    context.samples.compare(statistics.sources if statistics else ())
    source = samples.judging.feeds.origin.source
    if statistics is not None and any(origin.source == source for origin in statistics.sources):
        context.samples.shared()
        samples = replace(samples, apart=False)
    settings = StaticSettings.of(options, keeps_zeros=context.has_zeros)
    search = StaticSearch(document, context.rules, settings, samples, context.progress)
    if context.shared is None:
        return search.run(statistics)
    start = context.shared.get(SearchStart)
    if start is not None and start.document.proto == document.proto:
        return search.run_from(start)
    search.is_alone = False
    plan = search.run(statistics)
    context.shared.put(search.start)
    return plan


def _plan_from_statistics(context: Context) -> ActivationPlan:
    """The plan with the ranges of saved statistics alone: nothing that samples decide is tried.

    Raises:
        FeedError: there are no statistics, or an option needs samples.
        StatisticsError: statistics of another model, or none that the method can read.
    """
    document, options = context.document, context.options
    statistics = saved_statistics(options.calibration, context.original)
    if statistics is None:
        raise FeedError(
            "static activations need samples that the model will see: give --data; ranges from synthetic ones would mean "
            "nothing; --calibration FILE brings the ranges of an earlier run"
        )
    if options.auto_exclude or options.metric is not None:
        raise FeedError("auto_exclude and metric judge candidates by samples: give --data beside --calibration")
    with runtime.session_of(document, threads=options.threads) as session:
        feeds = synthetic_samples(session, document, options.dims(), SYNTHETIC, options.seed)
    settings = StaticSettings.of(options, keeps_zeros=context.has_zeros).without_samples()
    samples = SearchSamples(undivided(feeds), undivided(feeds), apart=False)
    search = StaticSearch(document, context.rules, settings, samples, context.progress)
    return search.with_ranges(statistics)
