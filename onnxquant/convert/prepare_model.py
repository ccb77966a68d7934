"""Passes that a model needs before it is planned."""

from __future__ import annotations

from onnxquant.activations.settings import required_opset
from onnxquant.convert.equivalent import rescaled_weight_names
from onnxquant.convert.opset import raise_opset
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites, overridable_weights
from onnxquant.passes.pipeline import prepare, requested, run, simplify, widen
from onnxquant.passes.prepare.initializers import FreeInitializers
from onnxquant.passes.simplify.sums import KeepSums
from onnxquant.plan.context import Context
from onnxquant.targets import Activations


def prepare_model(context: Context) -> list[str]:
    """Run the passes that every model needs, and those that the options ask for, in place; the sentences say what changed."""
    return _run_passes(context, context.document) + requested(context.document, context.options.passes)


def _run_passes(context: Context, document: Document) -> list[str]:
    """Run the passes that every model with such options needs, in place; the sentences say what changed."""
    notes = run(document, [FreeInitializers()]) if context.options.constant_inputs else []
    notes += prepare(document)
    if overridable := overridable_weights(find_sites(document)[1]):
        notes.append(overridable)
    kind = context.options.activations
    notes += widen(document) if kind != Activations.NONE else []
    return notes + (simplify(document) if kind == Activations.STATIC else [])


def fit_operators(context: Context) -> list[str]:
    """Make the operators fit those that the plan adds; the sentences say what changed."""
    document, options = context.document, context.options
    notes = raise_opset(document, context.rules, required_opset(options))
    return notes + (run(document, [KeepSums()]) if options.activations != Activations.NONE else [])


def weights_changed_on_request(context: Context) -> tuple[str, ...]:
    """Names of the weights that are not the original's since the passes asked for by name have run."""
    if not context.options.passes:
        return ()
    before = context.original.copy()
    _run_passes(context, before)
    return tuple(rescaled_weight_names(before, context.document))
