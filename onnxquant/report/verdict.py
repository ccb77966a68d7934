"""The verdict on a report, the same in every form of it: the result in figures, and in one sentence what to do next."""

from __future__ import annotations

from onnxquant.report.data import ReportData, State, Verdict
from onnxquant.report.warnings import LOW_DB, NEGLIGIBLE_GAIN, remedy
from onnxquant.validation.latency import QUANTIZED
from onnxquant.validation.proof import ProblemKind, Proof

# Timings scatter by this much.
_SLOWER = 0.95


def verdict_of(report: ReportData) -> Verdict:
    """The verdict on a report, as it was saved with it or as it follows from its fields."""
    if report.judgement is not None:
        return report.judgement.verdict
    proof, after = report.proof, report.final_bytes
    deployed = {n: e.sqnr_db for n, e in (proof.deployed if proof else {}).items()}
    name = min(deployed, key=lambda n: deployed[n], default=None)
    worst = None if name is None else deployed[name]
    faster = proof.latency.ratio[QUANTIZED] if proof and proof.latency else None
    smaller = report.original_bytes / after if after else None
    encoded = len(report.encoded) or (len(proof.weights) if proof else 0)
    if proof is None:
        state = State.PLANNED if report.planned else State.UNPROVEN
        step = _write_or_prove(state)
    elif proof.problems:
        state, step = State.FAILED, _repair(proof)
    else:
        state, step = State.PASSED, _use(report, proof, worst, smaller, faster)
    return Verdict(state, smaller, faster, worst, name, encoded, len(report.sites) or encoded, step)


def _write_or_prove(state: State) -> str:
    if state is State.PLANNED:
        return "Run it without --dry-run to write and prove the file."
    return "Prove it with onnxquant validate before you use it."


def _use(report: ReportData, proof: Proof, worst: float | None, smaller: float | None, faster: float | None) -> str:
    """The next step with a file that passed."""
    if proof.feeds and proof.feeds.is_synthetic:
        return "Give samples that the model will see with --data: made-up ones find defects, but they do not judge accuracy."
    if worst is not None and worst < LOW_DB:
        return f"Do not use it yet: {remedy(report.activations, proof)}."
    if report.encoded and smaller is not None and smaller < NEGLIGIBLE_GAIN:
        return "It is hardly smaller: read why weights were left in float, then choose another target or format."
    if faster is not None and faster < _SLOWER:
        return "Use it where size matters; where speed matters, try --bits 8, --target auto or --activations static."
    return "Use it, and measure it on the task it is for."


def _repair(proof: Proof) -> str:
    """The next step with a file that failed."""
    kinds = {problem.kind for problem in proof.problems}
    if kinds == {ProblemKind.MISSED_BOUND}:
        return (
            "Use more bits, or keep the weights that cost most in float with --exclude: onnxquant validate --detailed ranks "
            "them."
        )
    if ProblemKind.NOT_COMPARED in kinds:
        return "Give samples that fit the model with --data, or lengths with --dim."
    return (
        "Do not use this file: it is not what it should be. Make it again, and report a defect if that happens again."
    )
