"""Conversion of a whole graph to float16, alone or beside encoded weights, with a report on each constant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.artifact.lowering import PredictedSize, constant_bytes
from onnxquant.convert.prove import check_loading, open_samples, prove
from onnxquant.convert.size import refuse_larger
from onnxquant.errors import RecipeError
from onnxquant.formats.floats import F16
from onnxquant.graph.computed import restore_computations
from onnxquant.graph.data_files import DataFiles
from onnxquant.graph.io import Document, nbytes
from onnxquant.graph.names import ORIGIN, PREPARATION
from onnxquant.graph.publish import Publisher, refuse_overwriting
from onnxquant.graph.sites import find_sites
from onnxquant.graph.size_counter import SizeCounter
from onnxquant.graph.traverse import tensors
from onnxquant.passes.float16.convert import ConvertToFloat16, Float16Result
from onnxquant.passes.float16.element_types import element_types
from onnxquant.passes.float16.values import ConvertedConstant, unfit
from onnxquant.plan.context import Context
from onnxquant.plan.decision import Decision, EncodeDecision, Float16Plan, KeepDecision, Plan
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe
from onnxquant.report.data import Float16Error, SiteResult
from onnxquant.report.report import Report
from onnxquant.targets import AUTO, Activations
from onnxquant.validation.reference import Reference

# Rounding to float16 keeps more than 70 dB of a constant, unless much of it is too small.
LOW_DB = 50.0
_ON_CPUS = "on CPUs onnxruntime computes most of float16 in float32, with Casts of its own: this is for size, and for GPUs"


def check(settings: Options, recipe: Mapping[str, Any] | None) -> None:
    """Refuse options that mean nothing for a whole graph.

    Raises:
        RecipeError: a format that is not f16, or rules.
    """
    if settings.keep_io_types and not settings.in_float16:
        raise RecipeError("keep_io_types is an option of float16")
    if not settings.whole_graph:
        return
    if settings.format != F16.name:
        raise RecipeError(
            f"whole_graph is for format f16, not {settings.format or 'the default'}; float16 goes with every format"
        )
    useless = [k for k in ("bits", "parameters", "include", "exclude", "save_recipe") if getattr(settings, k)]
    if recipe is not None or useless or settings.target != AUTO:
        raise RecipeError(
            f"whole_graph takes no {useless[0] if useless else 'recipe or target'}: it converts every tensor"
        )


def is_alone(settings: Options, rules: Recipe) -> bool:
    """Whether a model becomes float16 and nothing of it is encoded."""
    has_integers = settings.activations != Activations.NONE
    return settings.in_float16 and not has_integers and all(r.keep or r.make_format() == F16() for r in rules.rules)


def with_float16(plan: Plan, document: Document, options: Options) -> Plan:
    """A plan whose file computes in float16 what is not on integers.

    Args:
        plan: the plan
        document: the model that it is of
        options: options of the run
    """
    decisions = tuple(
        d.kept_in_float("float16, as all that is not encoded") if isinstance(d, EncodeDecision) and d.format == F16() else d
        for d in plan.decisions
    )
    plan = replace(plan, decisions=decisions)
    encoded = {d.name for d in plan.encoded}
    sites = [s for s in find_sites(document)[0] if s.name in encoded]
    lost = frozenset(s.name for s in sites if unfit(np.asarray(document.array(s.tensor), np.float32)))
    return replace(plan, float16=Float16Plan(options.keep_io_types, element_types(document), lost))


def add_float16(report: Report, outcome: Float16Result) -> None:
    """Add what became float16 beside encoded weights to a report."""
    report.notes += [*outcome.notes, _ON_CPUS]
    constants = {c.name: c for c in outcome.constants if c.half}
    for place, site in enumerate(report.sites):
        constant = constants.get(site.decision.name)
        if constant is not None and isinstance(site.decision, KeepDecision):
            decision = replace(_decision(constant), role=site.decision.role, nodes=site.decision.nodes)
            report.sites[place] = SiteResult(decision, _error(constant), warning=_warning(constant))


def convert(context: Context, reference: Reference, path: Path, notes: list[str]) -> Report:
    """Convert a prepared model, write it and prove it; with ``dry_run`` only report.

    Args:
        context: context with the prepared model, which is changed
        reference: the original model
        path: file to write
        notes: sentences on the changes that prepared the model
    """
    options, original = context.options, context.original
    restore_computations(context.document.proto, context.document.computations)
    report = Report.of_plan(original, path, Plan(()), notes)
    if options.dry_run:
        _predict(context, path, report)
        return report
    data = options.data_files(original, path)
    refuse_overwriting(original, path, data)
    if options.proof:
        open_samples(context, reference)
    _write(context, path, report, data)
    if options.proof:
        report.prove(prove(context, reference, path))
    else:
        check_loading(original, path)
    return report


def _write(context: Context, path: Path, report: Report, data: DataFiles | None) -> None:
    """Convert the model, write it, and put the outcome into the report."""
    document, options = context.document, context.options
    with Publisher(path, external=data is not None, force=options.force, data=data, source=context.original) as publisher:

        def store(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
            publisher.append(tensor, memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data))

        outcome = ConvertToFloat16(options.keep_io_types, store)(document)
        _add_origin(context)
        publisher.keep(document.proto, document)
        refuse_larger(context.original, _size(document))
        publisher.publish(document.proto)
    report.notes += publisher.notes
    _add(report, outcome)
    report.finish(path, {})


def _predict(context: Context, path: Path, report: Report) -> None:
    """Convert the model, count the bytes of its file, and put the outcome into the report."""
    document, options = context.document, context.options
    counter = SizeCounter(options.data_files(context.original, path))

    def store(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
        counter.store(tensor, values.nbytes, None)

    outcome = ConvertToFloat16(options.keep_io_types, store)(document)
    _add_origin(context)
    counter.keep(document.proto, document)
    refuse_larger(context.original, _size(document))
    _add(report, outcome)
    report.predicted_bytes = counter.total(document.proto)


def _add_origin(context: Context) -> None:
    """Add to a converted model what it was made of."""
    entries = context.document.proto.metadata_props
    entries.add(key=ORIGIN, value=context.origin)
    if context.samples is not None:
        entries.add(key=PREPARATION, value=context.samples.preparation(context.original).text())


def _size(document: Document) -> PredictedSize:
    """The size of a converted model, with the tensors whose bytes are not in it."""
    apart = [t for t in tensors(document.proto) if t.data_location == t.EXTERNAL]
    return PredictedSize(document.proto.ByteSize() + sum(map(nbytes, apart)), constant_bytes(document.proto))


def _add(report: Report, outcome: Float16Result) -> None:
    """Add the conversion's notes and constants to a report."""
    report.notes += [*outcome.notes, _ON_CPUS]
    report.sites = [SiteResult(_decision(c), _error(c), warning=_warning(c)) for c in outcome.constants]


def _decision(constant: ConvertedConstant) -> Decision:
    elements = math.prod(constant.shape)
    decision = EncodeDecision(
        name=constant.name, role="tensor", nodes=(), shape=constant.shape, dtype="float32",
        float_bytes=4 * elements, nbytes=2 * elements, reason="whole graph", format=F16(), target="onnx",
    )  # fmt: skip
    if constant.half:
        return decision
    return decision.kept_in_float("only float32 is allowed for it, or keeps its digits")


def _error(constant: ConvertedConstant) -> Float16Error | None:
    if not constant.half:
        return None
    mse = constant.squared_error / max(1, math.prod(constant.shape))
    return Float16Error(constant.sqnr_db, mse, constant.flushed, constant.subnormal)


def _warning(constant: ConvertedConstant) -> str | None:
    """A warning about a constant that float16 does not hold well; None where it does."""
    elements = math.prod(constant.shape)
    if constant.clamped:
        return f"{constant.clamped} of {elements} values beyond 65504 became that"
    if constant.sqnr_db < LOW_DB and elements > 1:
        return (
            f"keeps only {constant.sqnr_db:.0f} dB in float16: {constant.flushed} of {elements} values became zero, "
            f"{constant.subnormal} lost digits below 6.1e-05"
        )
    return None
