"""The judgement of a proof: the user's bounds, and the exactness of the file's nodes and kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxquant.graph.io import Document
from onnxquant.graph.random_draws import unseeded
from onnxquant.numerics.align import BY_BEGINNINGS, arrays_of
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.numerics.score import PartQuality
from onnxquant.recipe.options import Options
from onnxquant.validation.outputs import EXACT_DB, Run, pair_name
from onnxquant.validation.proof import Problem, ProblemKind, Proof

# Weights and outputs of these types are rounded themselves, to 11 and 8 bits.
EXACT_DB_OF = {"float16": 55.0, "bfloat16": 35.0}
# A file may lose so much without graph optimizations before there is a note.
UNOPTIMIZED_DB = 6.0
# Decibels that a run may lie above the noise of float32 additions in another order.
_MARGIN_DB = 6.0
# The same above the effect of last bits of the samples, which are fewer roundings than a product has.
_NUDGE_MARGIN_DB = 20.0


def note_unoptimized(proof: Proof) -> None:
    """Add a note where the file is another function without graph optimizations.

    onnxruntime's MatMulNBits gives zeros then: its scales come from a Cast, which nobody folds.
    """
    deployed = proof.errors(Run.FLOAT, Run.DEPLOYED)
    for name, plain in proof.errors(Run.FLOAT, Run.UNOPTIMIZED).items():
        if name in deployed and plain.sqnr_db < deployed[name].sqnr_db - UNOPTIMIZED_DB:
            proof.notes.append(
                f"output {name!r} has {plain.sqnr_db:.1f} dB in sessions with ORT_DISABLE_ALL, "
                f"{deployed[name].sqnr_db:.1f} dB in others: leave graph optimizations on"
            )


def judge(proof: Proof, options: Options) -> None:
    """Add a problem for every bound that is missed."""
    for run in (Run.EXACT, Run.LIBRARY_EXACT):
        for name, error in proof.errors(Run.TWIN, run).items():
            if _depends_on_values(error):
                continue
            if error.sqnr_db < (bound := _exact_bound(proof, name)):
                pair = pair_name(Run.TWIN, run)
                text = f"{pair}: output {name!r} has {error.sqnr_db:.1f} dB, expected {bound:.0f} or more"
                proof.problems.append(Problem(text))
    if (metric := proof.metric) and not metric.passed:
        _miss(
            proof,
            f"metric {metric.name} is {metric.quantized:.6g}, the original's {metric.original:.6g}, the bound is "
            f"{metric.least:.6g}",
        )
    for part in proof.quality or []:
        if options.min_sqnr is not None and part.sqnr_db is not None and part.sqnr_db < options.min_sqnr:
            _miss(proof, f"output {part.output!r} has {part.sqnr_db:.2f} dB, the bound is {options.min_sqnr:g}")
    for name, error in proof.deployed.items():
        if error.not_finite or error.shape_mismatch:
            text = error.shape_mismatch or f"{error.not_finite} values are infinite or NaN where the original's are not"
            proof.problems.append(Problem(f"output {name!r}: {text}"))
        if options.max_mse is not None and error.mse > options.max_mse:
            _miss(proof, f"output {name!r} has MSE {error.mse:.3g}, the bound is {options.max_mse:g}")


def _depends_on_values(error: ErrorFigures) -> bool:
    """Whether an output depends on values so that its exactness says nothing: one rounding more may add or drop a row."""
    return error.comparison == BY_BEGINNINGS or (error.comparison is not None and error.sqnr_db == -math.inf)


def notes_on_outputs(outputs: Sequence[Mapping[str, Any]], quality: Sequence[PartQuality]) -> list[str]:
    """Remarks on outputs that are not finite in the original, or whose shapes depend on values.

    Args:
        outputs: outputs of the original, a mapping per sample.
        quality: quality of the parts.
    """
    notes = []
    for name in outputs[0] if outputs else ():
        values = [array for sample in outputs for array in arrays_of({name: sample[name]}).values()]
        floats = [array for array in values if array.dtype.kind == "f"]
        if count := sum(int((~np.isfinite(array)).sum()) for array in floats):
            notes.append(
                f"output {name!r} of the original itself holds {count} infinite or NaN values: they are not compared"
            )
    return notes + [
        f"output {part.output!r} depends on values in its shape: {part.shape}" for part in quality if part.shape
    ]


def notes_on_random_draws(document: Document) -> list[str]:
    """A remark on a model that draws random numbers."""
    if not (drawing := unseeded(document.proto)):
        return []
    ops = ", ".join(sorted({node.op_type for node in drawing}))
    return [f"the model draws random numbers ({len(drawing)} x {ops}): for the comparison both files draw the same ones"]


def _miss(proof: Proof, text: str) -> None:
    proof.problems.append(Problem(text, ProblemKind.MISSED_BOUND))


def _exact_bound(proof: Proof, output: str) -> float:
    """100 dB; less where 16-bit types, or float32 with its additions in another order, cannot keep that."""
    bound = min((EXACT_DB_OF.get(w.dtype, EXACT_DB) for w in proof.weights.values()), default=EXACT_DB)
    for run, margin in ((Run.TWIN_UNOPTIMIZED, _MARGIN_DB), (Run.TWIN_NUDGED, _NUDGE_MARGIN_DB)):
        noise = proof.errors(Run.TWIN, run).get(output)
        bound = min(bound, noise.sqnr_db - margin) if noise else bound
    return bound
