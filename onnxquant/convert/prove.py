"""The proof of a file that was just written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from onnxquant import runtime
from onnxquant.errors import FeedError
from onnxquant.plan.context import Context
from onnxquant.recipe.progress import Progress
from onnxquant.validation.compare import compare, outputs_of_original
from onnxquant.validation.proof import Proof
from onnxquant.validation.reference import SampledOutputs
from onnxquant.validation.weights import EncodedWeights


def original_outputs(context: Context) -> SampledOutputs | FeedError:
    """Outputs of the original model on the samples of the proof; or why no synthetic samples fit.

    Raises:
        FeedError: the user's samples do not fit.
    """
    context.progress("proof: original", 0.0)
    try:
        return outputs_of_original(context.original, context.samples, context.options)
    except FeedError as error:
        if context.samples is not None:
            raise
        return error


def check_samples(context: Context) -> None:
    """Refuse samples that do not fit, where a run would not come to open them.

    Raises:
        FeedError: the user's samples do not fit.
    """
    if context.samples is not None:
        with runtime.session_of(context.original, threads=context.options.threads) as session:
            context.samples.for_proof(session)


def prove(
    context: Context, path: Path, outputs: SampledOutputs | FeedError, written: EncodedWeights | None = None
) -> Proof:
    """The comparison of a file with the original.

    Args:
        context: context of the run
        path: the file
        outputs: outputs of the original model
        written: knowledge of the writer about the weights
    """
    return compare(context.original, path, outputs, context.options, partial(_report, context.progress), written)


def _report(progress: Progress, stage: str, done: float) -> None:
    progress(f"proof: {stage}", done)
