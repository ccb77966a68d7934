"""Whole-graph float16: convert every tensor of a prepared model, write it, report each constant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats.floats import F16
from onnxquant.graph.io import Document
from onnxquant.graph.names import ORIGIN
from onnxquant.graph.publish import Publisher
from onnxquant.numerics.difference import number
from onnxquant.passes.float16.convert import Outcome, halve
from onnxquant.passes.float16.values import Constant
from onnxquant.plan.decision import Decision, EncodeDecision
from onnxquant.recipe.options import Options
from onnxquant.report.data import Report, SiteResult

# Rounding to float16 keeps more than 70 dB of a constant, unless much of it is too small.
LOW_DB = 50.0


def check(settings: Options, recipe: Any) -> None:
    """Refuse options that mean nothing for a whole graph.

    Raises:
        RecipeError: a format that is not f16, or rules.
    """
    if settings.keep_io_types and not settings.whole_graph:
        raise RecipeError("keep_io_types is an option of whole_graph")
    if not settings.whole_graph:
        return
    if settings.format != "f16":
        raise RecipeError(f"whole_graph is for format f16, not {settings.format or 'the default'}")
    given = [k for k in ("bits", "parameters", "include", "exclude", "save_recipe") if getattr(settings, k)]
    if recipe is not None or given or settings.target != "auto":
        raise RecipeError(f"whole_graph takes no {given[0] if given else 'recipe or target'}: it converts every tensor")


def plan(document: Document, report: Report, settings: Options) -> None:
    """Convert a copy without writing it, for the report's sake."""
    _tell(halve(document.copy(), keep_io_types=settings.keep_io_types), report)


def write(document: Document, report: Report, settings: Options, origin: str, *, external: bool) -> None:
    """Convert a prepared model and write it.

    Args:
        document: it is changed.
        report: told what was done; it names the output.
        settings: ``keep_io_types`` and ``force``.
        origin: what the file says it was made of.
        external: tensors go to a data file.
    """
    path = Path(str(report.output))
    with Publisher(path, external=external, force=settings.force) as publisher:

        def store(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
            publisher.append(tensor, memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data))

        outcome = halve(document, keep_io_types=settings.keep_io_types, store=store)
        document.proto.metadata_props.add(key=ORIGIN, value=origin)
        publisher.keep(document.proto, document)
        publisher.publish(document.proto)
    _tell(outcome, report)
    report.finish(path, {}, external=external)


def _tell(outcome: Outcome, report: Report) -> None:
    report.notes += outcome.notes
    report.sites = [SiteResult(_decision(c), _error(c), _warning(c)) for c in outcome.constants]


def _decision(constant: Constant) -> Decision:
    elements = math.prod(constant.shape)
    decision = EncodeDecision(
        name=constant.name, role="tensor", nodes=(), shape=constant.shape, dtype="float32",
        float_bytes=4 * elements, nbytes=2 * elements, reason="whole graph", format=F16(), target="onnx",
    )  # fmt: skip
    if constant.half:
        return decision
    return decision.kept_in_float("only float32 is allowed for it, or keeps its digits")


def _error(constant: Constant) -> dict[str, Any]:
    if not constant.half:
        return {}
    mse = constant.error[0] / max(1, math.prod(constant.shape))
    return {
        "sqnr_db": number(constant.sqnr_db),
        "mse": mse,
        "flushed": constant.flushed,
        "subnormal": constant.subnormal,
    }


def _warning(constant: Constant) -> str | None:
    elements = math.prod(constant.shape)
    if constant.clamped:
        return f"{constant.clamped} of {elements} values beyond 65504 became that"
    if constant.sqnr_db < LOW_DB and elements > 1:
        return (
            f"keeps only {constant.sqnr_db:.0f} dB in float16: {constant.flushed} of {elements} values became zero, "
            f"{constant.subnormal} lost digits below 6.1e-05"
        )
    return None
