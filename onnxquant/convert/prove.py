"""The proof of a file that was just written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from onnxquant import runtime
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document
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


def check_loading(original: Document, path: Path) -> None:
    """Refuse a file that onnxruntime does not load, where it loads the original.

    Raises:
        ModelError: the file does not load.
    """
    try:
        runtime.open_session(path, runtime.session_options(mapped=True))
    except ModelError:
        if _loads(original):
            raise


def _loads(document: Document) -> bool:
    """Whether onnxruntime loads a model."""
    try:
        with runtime.session_of(document, threads=1):
            return True
    except ModelError:
        return False


def _report(progress: Progress, stage: str, done: float) -> None:
    progress(f"proof: {stage}", done)
