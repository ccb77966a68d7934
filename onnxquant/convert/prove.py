"""The proof of a file that was just written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from onnxquant import runtime
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.plan.context import Context
from onnxquant.recipe.progress import Progress
from onnxquant.validation.compare import compare
from onnxquant.validation.proof import Proof
from onnxquant.validation.reference import Reference
from onnxquant.validation.weights import EncodedWeights


def check_samples(context: Context) -> None:
    """Refuse samples that do not fit, where a run would not come to open them.

    Raises:
        FeedError: the user's samples do not fit.
    """
    if context.samples is not None:
        context.samples.for_proof(context.original)


def prove(context: Context, reference: Reference, path: Path, written: EncodedWeights | None = None) -> Proof:
    """The comparison of a file with the original.

    Args:
        context: context of the run
        reference: the original model
        path: the file
        written: knowledge of the writer about the weights
    """
    return compare(reference, path, context.options, partial(_report, context.progress), written)


def open_samples(context: Context, reference: Reference) -> None:
    """Run the original on the samples of the proof: data that does not fit is refused before any work.

    Raises:
        FeedError: the user's samples do not fit.
    """
    context.progress("proof: original", 0.0)
    _ = reference.outputs


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
