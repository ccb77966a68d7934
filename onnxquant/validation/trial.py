"""A trial of a file: its size, its quality and its speed beside the original, without the rest of a proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxquant.artifact.records import activation_record
from onnxquant.errors import FeedError
from onnxquant.graph.io import load
from onnxquant.numerics.score import LOW_DB, Judge
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress
from onnxquant.validation.bounds import judge
from onnxquant.validation.compare import LARGE_BYTES, metric_of, prepared_like
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, TimedModel, latencies
from onnxquant.validation.outputs import ComparedModels, Run, differences, pair_name, rounds_activations
from onnxquant.validation.proof import Problem, ProblemKind, Proof, Sizes
from onnxquant.validation.reference import Reference
from onnxquant.validation.structure import compare_structure
from onnxquant.validation.weights import EncodedWeights, compare_weights

# Samples of the first look, and seconds for the speed.
_LOOK, _SECONDS = 4, 0.8


def look(reference: Reference, quantized: Path, options: Options, progress: Progress) -> Proof:
    """The proof of a file as far as a search needs it.

    A file that loses its outputs on the first samples is not looked at further: its speed is not measured.

    Args:
        reference: the original.
        quantized: the file.
        options: threads and bounds.
        progress: callback for the stage and the part of it that is done.

    Raises:
        ModelError: the file does not load or run.
        FeedError: there are no samples.
    """
    document, samples = load(quantized, options.external_root), reference.outputs
    if isinstance(samples, FeedError):
        raise samples
    before, after = reference.document.size(), document.size()
    proof, large = Proof(sizes=Sizes(before, after, before / after)), before > LARGE_BYTES
    if rounds_activations(document):
        proof.activations.record = activation_record(document.proto)
    first = replace(samples, feeds=samples.feeds[:_LOOK], outputs=samples.outputs[:_LOOK])
    models = ComparedModels(None, document, first, options.threads, large, options.judge)
    progress("outputs of the first samples", 0.0)
    outputs = models.run(quantized, library=True)
    proof.feeds = samples.origin
    proof.quality = Judge(first.outputs, options.judge, samples.heads).quality(outputs)
    ratios = [part.sqnr_db for part in proof.quality if part.sqnr_db is not None]
    if min(ratios, default=LOW_DB) < LOW_DB and options.metric is None:
        proof.problems.append(Problem("the first samples lose their outputs", ProblemKind.MISSED_BOUND))
        return proof
    progress("outputs", 0.0)
    if len(samples.feeds) > _LOOK:
        rest = replace(samples, feeds=samples.feeds[_LOOK:], outputs=samples.outputs[_LOOK:])
        outputs += replace(models, samples=rest).run(quantized, library=True)
    judged = reference.judge.unseen(outputs, [str(i) for i in range(len(outputs))])
    proof.quality, proof.unseen = list(judged.parts), judged.expected
    figures = {name: d.figures() for name, d in differences(samples.outputs, outputs).items()}
    proof.outputs = {pair_name(Run.FLOAT, Run.DEPLOYED): figures}
    if options.metric is not None:
        progress("metric", 0.0)
        proof.metric = metric_of(reference, quantized, options)
    if not large:
        progress("speed", 0.0)
        timed = {ORIGINAL: TimedModel(reference.path), QUANTIZED: TimedModel(quantized)}
        proof.latency = latencies(timed, samples.feeds[0], options.threads, enough=_SECONDS)
    judge(proof, options)
    return proof


def prove_rest_quickly(proof: Proof, reference: Reference, quantized: Path, options: Options) -> None:
    """Add to what a look has shown what a proof has besides and takes little time: the structure, and each weight.

    Args:
        proof: the proof of ``look``.
        reference: the original.
        quantized: the file.
        options: folders of external data.
    """
    document = load(quantized, options.external_root)
    compare_structure(proof, reference.document, document)
    compare_weights(proof, EncodedWeights(prepared_like(reference.document, document)), document)
    proof.notes.append(
        "ended before its time: beside the structure and the weights only outputs and speed were compared; "
        "`onnxquant validate` proves the rest"
    )
