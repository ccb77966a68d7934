"""Comparison of a quantized model with its original: structure, weights, outputs, sizes and speed."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxquant import runtime
from onnxquant.artifact.records import Metadata, activation_record, computes_in_float16, records, rescaled_weights
from onnxquant.calibration.feeds import Feed
from onnxquant.calibration.samples import Samples
from onnxquant.errors import FeedError, RecipeError
from onnxquant.graph.io import Document, load
from onnxquant.graph.sites import MIN_ELEMENTS, find_sites
from onnxquant.numerics.classes import AnswerKind, answering
from onnxquant.passes.pipeline import prepare, simplify, widen
from onnxquant.passes.prepare.initializers import FreeInitializers
from onnxquant.plan.activations import StaticRecord
from onnxquant.pruning.channels import Channels
from onnxquant.pruning.removal import labels_of, remove
from onnxquant.pruning.values import set_values
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.values import Drop
from onnxquant.validation.accuracy import Accuracy, measure
from onnxquant.validation.bounds import judge, note_unoptimized, notes_on_outputs, notes_on_random_draws
from onnxquant.validation.footprint import footprint
from onnxquant.validation.kernels import kernels_of
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, STOCK, Latency, TimedModel, latencies
from onnxquant.validation.leftover_conversions import conversions
from onnxquant.validation.metric import Metric, MetricResult
from onnxquant.validation.op_times import op_times
from onnxquant.validation.outputs import ComparedModels, compare_outputs, has_our_ops, rounds_activations
from onnxquant.validation.proof import Loading, Problem, ProblemKind, Proof, Sizes
from onnxquant.validation.reference import Reference, SampledOutputs
from onnxquant.validation.saturation import SATURATION_SAMPLES, emulate
from onnxquant.validation.structure import compare_structure
from onnxquant.validation.weights import EncodedWeights, compare_weights

# Sessions repack weights into memory of their own. Above this size the proof leaves them in the mapped file instead:
# then products compute in float, and speed and memory are not measured.
LARGE_BYTES = 1 << 30
# Models that take longer for a call are not profiled: that would take as long as the rest of the proof.
PROFILED_SECONDS = 1.0
# A ratio of speeds with longer samples counts where it is smaller than with short ones by this factor.
_SLOWER = 0.97


def compare(
    reference: Reference,
    quantized: Path,
    options: Options,
    progress: Progress = silent,
    written: EncodedWeights | None = None,
) -> Proof:
    """Prove a quantized file against its original.

    Args:
        reference: the original. Where no samples fit it, that is a problem of the proof.
        quantized: the file, which is read again from disk.
        options: number of samples, seed, threads, dims and bounds.
        progress: callback for the stage and the part of it that is done.
        written: knowledge of the writer, right after writing.

    Raises:
        ModelError: a model does not load or run.
    """
    document, original, samples = load(quantized, options.external_root), reference.document, reference.outputs
    before, after = original.size(), document.size()
    proof, large = Proof(sizes=Sizes(before, after, before / after)), before > LARGE_BYTES
    progress("structure", 0.0)
    compare_structure(proof, original, document)
    record = activation_record(document.proto)
    if rounds_activations(document):
        proof.activations.record = record
    progress("weights", 0.0)
    weights = written or EncodedWeights(prepared_like(original, document))
    compare_weights(proof, weights, document)
    # Calibration changes weights and biases: without the writer's model, the file's own weights make the twin.
    # A float16 file is compared with a float16 twin: what rounding to float16 costs is no error of its nodes.
    known = written is not None or (record is None and not rescaled_weights(document.proto))
    known = known and not computes_in_float16(document.proto)
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        models = None
        if isinstance(samples, FeedError):
            proof.problems.append(Problem(f"outputs were not compared: {samples}", ProblemKind.NOT_COMPARED))
        else:
            prepared = weights.document if known else None
            models = ComparedModels(prepared, document, samples, options.threads, mapped=large, judge=options.judge)
            proof.feeds = samples.origin
            compared = compare_outputs(models, Path(folder), progress)
            proof.outputs, proof.quality, proof.examples = compared.errors, compared.quality, compared.examples or None
            if written and written.unseen:
                proof.quality, proof.unseen = list(written.unseen.parts), written.unseen.expected
            proof.notes += notes_on_outputs(samples.outputs, compared.quality) + notes_on_random_draws(document)
            note_unoptimized(proof)
        if isinstance(samples, SampledOutputs) and samples.source is not None:
            add_accuracy(proof, reference, quantized, samples.source, options)
        if options.metric is not None:
            progress("metric", 0.0)
            proof.metric = metric_of(reference, quantized, options)
        if not large:
            _measure(proof, reference, quantized, models, progress)
    if large:
        proof.notes.append(f"above {LARGE_BYTES >> 30} GiB: proven with float compute; speed and memory not measured")
    else:
        _add_kernels(proof, weights.document, document, quantized, options.threads)
    judge(proof, options)
    return proof


def add_accuracy(proof: Proof, reference: Reference, quantized: Path, samples: Samples, options: Options) -> None:
    """Add the accuracy of both models to a proof, where samples have labels.

    Args:
        proof: the proof.
        reference: the original model.
        quantized: the quantized one.
        samples: samples of the user.
        options: number of threads.

    Raises:
        FeedError: the labels cannot be read, or those of ``labels`` tell no accuracy.
    """
    if not samples.has_labels:
        return
    original = reference.path
    labelled = samples.labelled(reference.document)
    if labelled is None:
        return
    thresholds = {} if isinstance(reference.outputs, FeedError) else _thresholds(reference.outputs)
    result = measure(original, quantized, labelled, options.threads, samples.labels_from, thresholds)
    if isinstance(result, Accuracy):
        proof.accuracy = result
    elif options.labels is not None:
        raise FeedError(f"labels: {options.labels}: no accuracy: {result or 'none is the class of a sample'}")
    elif result:
        proof.no_accuracy = result


def _thresholds(samples: SampledOutputs) -> dict[str, float]:
    """The number above which an answer is yes, of each output of the original that says yes or no."""
    names = list(samples.outputs[0]) if samples.outputs else []
    values = {name: [np.asarray(outputs[name]) for outputs in samples.outputs] for name in names}
    answers = {name: answering(name, arrays, samples.heads) for name, arrays in values.items()}
    return {name: a.threshold for name, a in answers.items() if a is not None and a.kind is AnswerKind.YES_OR_NO}


def prepared_like(original: Document, quantized: Document) -> Document:
    """The float model whose weights were encoded, but for the changes of calibration."""
    prepared = original.copy()
    inputs = {value.name for value in quantized.proto.graph.input}
    FreeInitializers(frozenset(t.name for t in prepared.proto.graph.initializer) - inputs)(prepared)
    prepare(prepared)
    sizes = [weight.elements for weight in records(quantized.proto)]
    prepared.least_elements = min(sizes) if sizes and min(sizes) < MIN_ELEMENTS else None
    record = activation_record(quantized.proto)
    if record is not None:
        widen(prepared)
    if isinstance(record, StaticRecord):
        simplify(prepared)
    _prune_like(prepared, quantized)
    return prepared


def _prune_like(prepared: Document, quantized: Document) -> None:
    """Take out the channels that were pruned, and give pruned weights that stayed floats the values of the file."""
    metadata = Metadata.read(quantized.proto)
    if metadata is None or metadata.pruned is None:
        return
    if metadata.pruned.removed:
        channels = Channels(prepared)
        remove(prepared, channels, labels_of(channels, metadata.pruned.removed))
    encoded = {record.name for record in metadata.records}
    floats = {t.name: t for t in quantized.proto.graph.initializer}
    for site in find_sites(prepared)[0]:
        other = floats.get(site.tensor.name)
        if site.name in metadata.pruned.zeros and site.name not in encoded and other is not None:
            set_values(prepared, site.tensor, quantized.array(other))


def _measure(
    proof: Proof, reference: Reference, quantized: Path, models: ComparedModels | None, progress: Progress
) -> None:
    """Add saturation and latencies where there are samples, and the footprints."""
    if models is not None:
        document, feeds, threads = models.quantized, models.samples.feeds, models.threads
        if rounds_activations(document):
            proof.activations.saturation = emulate(document, feeds[:SATURATION_SAMPLES], threads, progress)
        progress("speed", 0.0)
        timed = {ORIGINAL: TimedModel(reference.path), QUANTIZED: TimedModel(quantized)}
        if has_our_ops(document):
            timed[STOCK] = TimedModel(quantized, library=False)
        feed, proof.latency = feeds[0], latencies(timed, feeds[0], threads)
        step = models.samples.step
        if step is not None:
            call = _of_decoder(proof.latency, feed)
            feed, proof.latency = step, replace(latencies(timed, step, threads), call=call)
        longer = models.samples.longer
        if longer is not None:
            at_length = latencies(timed, longer, threads)
            if at_length.ratio[QUANTIZED] < _SLOWER * proof.latency.ratio[QUANTIZED]:
                proof.notes.append(_on_lengths(proof.latency, feed, longer))
                feed, proof.latency = longer, at_length
        if max(proof.latency.seconds.values()) < PROFILED_SECONDS:
            proof.op_times = op_times(reference.path, quantized, feed, proof.latency, threads)
    progress("memory and kernels", 0.0)
    proof.loading = Loading(reference.footprint, footprint(quantized))


def _of_decoder(latency: Latency, many: Feed) -> str:
    """The work of one call of a decoder that takes one token, beside its speed with many.

    Args:
        latency: latencies with the sample of many tokens.
        many: that sample.
    """
    tokens = next(array.shape[1] for array in many.values() if np.ndim(array) == 2)
    return f"one token after others ({tokens} at once: {latency.ratio[QUANTIZED]:.2f}x)"


def _on_lengths(latency: Latency, short: Feed, longer: Feed) -> str:
    """A sentence on a speed that depends on the lengths of inputs, which are made up.

    Args:
        latency: latencies with the short sample.
        short: that sample.
        longer: the longer one.
    """
    name = next(n for n in short if short[n].shape != longer[n].shape)
    return (
        f"the speed depends on lengths, which are made up: it is that with {name} {list(longer[name].shape)}, and "
        f"{latency.ratio[QUANTIZED]:.2f}x with {list(short[name].shape)}; --data or --dim measures yours"
    )


def _add_kernels(proof: Proof, prepared: Document, document: Document, path: Path, threads: int | None) -> None:
    """Add the ops that onnxruntime runs, from its optimized graphs."""
    optimized = runtime.optimized_graph(path, library=False, threads=threads)
    proof.kernels.stock = runtime.histogram(optimized)
    if rounds_activations(document):
        proof.activations.conversions = conversions(optimized)
    if has_our_ops(document):
        optimized = runtime.optimized_graph(path, threads=threads)
        proof.kernels.library = runtime.histogram(optimized)
    for name, kernel in kernels_of(records(document.proto), find_sites(prepared)[0], optimized).items():
        if name in proof.weights:
            proof.weights[name] = replace(proof.weights[name], kernel=kernel)


def metric_of(reference: Reference, quantized: Path, options: Options) -> MetricResult:
    """The user's metric of both models, with sessions as users open them.

    Raises:
        RecipeError: there is none, or it fails.
    """
    if options.metric is None:
        raise RecipeError("metric is missing, expected a function of a session")
    metric, before = Metric(options.metric), reference.metric
    after = metric(runtime.open_session(quantized, runtime.session_options(threads=options.threads)))
    return MetricResult(metric.name, before, after, Drop.parse(options.max_drop).least(before))
