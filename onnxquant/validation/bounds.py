"""The judgement of a proof: the user's bounds, and the exactness of the file's nodes and kernels."""

from __future__ import annotations

from onnxquant.recipe.options import Options
from onnxquant.validation.outputs import Run, pair_name
from onnxquant.validation.proof import Problem, ProblemKind, Proof

# With float compute the lowered model must give the twin's numbers: what is left is the order of float additions.
EXACT_DB = 100.0
# Weights and outputs of these types are rounded themselves, to 11 and 8 bits.
EXACT_DB_OF = {"float16": 55.0, "bfloat16": 35.0}
# A file may lose so much without graph optimizations before there is a note.
UNOPTIMIZED_DB = 6.0
# Decibels that a run may lie above the noise of float32 additions in another order.
_MARGIN_DB = 6.0


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
    for name, error in proof.deployed.items():
        if error.not_finite or error.shape_mismatch:
            text = error.shape_mismatch or f"{error.not_finite} values that are not finite"
            proof.problems.append(Problem(f"output {name!r}: {text}"))
        if options.min_sqnr is not None and error.sqnr_db < options.min_sqnr:
            _miss(proof, f"output {name!r} has {error.sqnr_db:.2f} dB, the bound is {options.min_sqnr:g}")
        if options.max_mse is not None and error.mse > options.max_mse:
            _miss(proof, f"output {name!r} has MSE {error.mse:.3g}, the bound is {options.max_mse:g}")


def _miss(proof: Proof, text: str) -> None:
    proof.problems.append(Problem(text, ProblemKind.MISSED_BOUND))


def _exact_bound(proof: Proof, output: str) -> float:
    """100 dB; less where 16-bit types, or float32 with its additions in another order, cannot keep that."""
    bound = min((EXACT_DB_OF.get(w.dtype, EXACT_DB) for w in proof.weights.values()), default=EXACT_DB)
    noise = proof.errors(Run.TWIN, Run.TWIN_UNOPTIMIZED).get(output)
    return min(bound, noise.sqnr_db - _MARGIN_DB) if noise else bound
