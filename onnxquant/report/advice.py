"""Advice about a file: steps that can still be taken with it.

What was taken already, and what does not exist for such a file, is not named.
"""

from __future__ import annotations

from collections import Counter

from onnxquant.json_data import JsonValue
from onnxquant.numerics.align import BY_BEGINNINGS
from onnxquant.plan.activations import ActivationRecord, DynamicRecord, StaticRecord
from onnxquant.plan.decision import EncodeDecision
from onnxquant.report.data import ReportData
from onnxquant.solvers.gptq import Gptq
from onnxquant.solvers.rtn import Rtn
from onnxquant.targets import AUTO
from onnxquant.validation.outputs import Run
from onnxquant.validation.proof import ProblemKind, Proof

# Rounding the weights alone keeps at least this where the activations cost the accuracy.
_WEIGHTS_ARE_GOOD_DB = 20.0
# Formats with fewer bits per weight, scales included, have a format with more bits.
_MOST_BITS = 8.0
# More samples may help calibration with fewer than these.
_FEW_SAMPLES = 100
_ON_CPUS = "On CPUs most of float16 is computed in float32"
_EXCLUDE = "keep the weights that cost most in float with --exclude"


def repair(report: ReportData, proof: Proof) -> str:
    """The next step with a file that failed."""
    kinds = {problem.kind for problem in proof.problems}
    if kinds == {ProblemKind.MISSED_BOUND}:
        return f"The file misses a bound of yours: {more_accurate(report, proof)}."
    if ProblemKind.NOT_COMPARED in kinds:
        return "Give samples that fit the model with --data, or lengths with --dim."
    return (
        "Do not use this file: it is not what it should be. Make it again, and report a defect if that happens again."
    )


def other_samples(proof: Proof) -> str:
    """The next step where the original has no more answers right than chance."""
    accuracy = proof.accuracy
    right = f"{accuracy.original} of {accuracy.samples}" if accuracy else "none"
    classes = f" of {accuracy.classes} classes" if accuracy else ""
    return (
        f"Check the samples first: the original itself has {right} right, no more than chance{classes}, so the samples, "
        f"their preparation (--preprocess) or the labels (--labels) are not what it was trained for, and they say nothing "
        f"about the file."
    )


def more_accurate(report: ReportData, proof: Proof) -> str:
    """The step that costs accuracy, and what to try."""
    if _is_float16_alone(report):
        return "float16 does not suit every op of this model; --format f16 alone stores no more than the weights so"
    if report.pruning is not None:
        tune = "" if report.tuning else ", or learn back what is lost: --tune 10min --data SAMPLES"
        return f"pruning costs this model its accuracy; prune less, leave weights out with --exclude{tune}"
    if _worst_is_cut(proof):
        return "outputs of other lengths drift apart, so that the figure says little: judge them with --metric"
    twin = min((e.sqnr_db for e in proof.errors(Run.FLOAT, Run.TWIN).values()), default=0.0)
    if report.activations and twin >= _WEIGHTS_ARE_GOOD_DB:
        steps = _better_activations(report, report.activations)
        return f"rounding activations costs this model its accuracy; try {_or(steps)}{_ranking(proof)}"
    if not report.encoded and not proof.weights:
        return "the file loses too much; quantize the original with more bits, or with fewer ops on integers"
    return f"the format costs this model its accuracy; {_or(_better_weights(report, proof))}{_ranking(proof)}"


def _worst_is_cut(proof: Proof) -> bool:
    """Whether the worst part of the outputs was compared over the common beginnings of unequal lengths."""
    parts = [part for part in proof.quality or [] if part.sqnr_db is not None]
    worst = min(parts, key=lambda part: part.sqnr_db or 0.0, default=None)
    return worst is not None and BY_BEGINNINGS in (worst.shape or "")


def faster(report: ReportData, proof: Proof) -> str:
    """Steps to try with a file that is slower than the original."""
    steps = []
    if report.choice is not None and report.choice.skipped:
        finish = "let the search finish" if report.choice.interrupted else "give it more --time"
        return f"The faster ways were not tried ({', '.join(report.choice.skipped)}): where speed matters, {finish}."
    if report.choice is not None and len(report.choice.attempts) == 1:
        return f"No other way suits it{_why_alone(report)}."
    if report.choice is not None:
        return "No way that keeps the bound is faster here; --min-sqnr, --metric or --max-drop set another bound."
    if _is_float16_alone(report):
        return f"{_ON_CPUS}: where speed matters here, keep the original."
    if _given(report, "float16"):
        return f"{_ON_CPUS}: where speed matters here, leave out --float16."
    if report.activations is None and report.encoded:
        steps.append(_integers(report))
        if _given(report, "compute") == "float":
            steps.append("without --compute float products run on coded weights")
        elif _target(report) != AUTO:
            steps.append("--target auto chooses the operators that are fastest here")
        elif any(isinstance(s.decision, EncodeDecision) and not s.decision.folded for s in report.encoded):
            steps.append("--compute float has products run at the speed of float")
    if steps:
        return f"Where speed matters: {_or(steps)}."
    if report.activations and report.activations.integer_kernels == 0:
        return "No op computes on integers; -v gives the reason for each."
    return "Where speed matters, keep the original."


def _why_alone(report: ReportData) -> str:
    """The reason why there is one way for a model; empty where its weights do not tell."""
    sizes = Counter[str]()
    for site in report.encoded:
        sizes[site.decision.role.partition("+")[0]] += site.decision.float_bytes
    reasons = {
        "recurrent": "recurrent layers other than LSTMs have no operator that computes on integers",
        "gather": "lookups take hardly any time",
    }
    reason = next((reasons.get(role) for role, _ in sizes.most_common(1)), None)
    return f": {reason}" if reason else ""


def _integers(report: ReportData) -> str:
    """The kind of integer activations that suits the ops that hold most of the encoded bytes."""
    products, convolutions = (
        sum(s.decision.float_bytes for s in report.encoded if s.decision.role.startswith(roles))
        for roles in (("matmul", "gemm"), ("conv",))
    )
    if products > convolutions:
        return "--activations dynamic computes products on integers"
    return "--activations static, with samples, computes on integers"


def smaller(report: ReportData) -> str:
    """The reason why a file is not smaller than the original."""
    if report.sites and len(report.encoded) < len(report.sites):
        return "Most of the model stays in float; -v gives the reason for each weight."
    if report.original_bytes < (report.final_bytes or 0):
        return "What was added is larger than what the weights save: the model is small."
    return "The weights are a small part of the model."


def _better_activations(report: ReportData, activations: ActivationRecord) -> list[str]:
    """Steps that may lower the error of rounding activations."""
    if not isinstance(activations, StaticRecord):
        return ["--activations static, with samples", "--exclude for ops that need float"]
    steps = [] if _given(report, "auto_exclude") else ["--auto-exclude with --min-sqnr"]
    if activations.samples and activations.samples.calibrated < _FEW_SAMPLES:
        steps.append(f"more samples ({activations.samples.calibrated} were used)")
    if _given(report, "calibration_method") not in (None, AUTO):
        steps.append(f"another --calibration-method than {activations.method}")
    return [*steps, "--exclude for ops that need float"]


def _better_weights(report: ReportData, proof: Proof) -> list[str]:
    """Steps that may lower the error of rounding weights."""
    steps = []
    solvers = {d.solver for s in report.sites if isinstance(d := s.decision, EncodeDecision)}
    if report.activations is None and any(s.decision.bits_per_weight < _MOST_BITS for s in report.encoded):
        steps.append("use more bits")
        is_synthetic = proof.feeds is None or proof.feeds.is_synthetic
        if solvers == {Rtn.name} and is_synthetic and _given(report, "solver") is None:
            steps.append(f"give --data, so that {Gptq.name} chooses the codes")
    elif not report.encoded and not isinstance(report.activations, (StaticRecord, DynamicRecord)):
        steps.append("use more bits")
    return [*steps, _EXCLUDE]


def _ranking(proof: Proof) -> str:
    """The command that shows which weights cost most; empty where it was run."""
    return "" if proof.contributions else ": onnxquant validate --detailed ranks them"


def _target(report: ReportData) -> JsonValue:
    return _given(report, "target") or AUTO


def _is_float16_alone(report: ReportData) -> bool:
    """Whether all weights are float16, as what computes with them."""
    formats = {s.decision.format.name for s in report.sites if s.decision.format is not None}
    return bool(_given(report, "whole_graph") or (_given(report, "float16") and formats <= {"f16"}))


def _given(report: ReportData, option: str) -> JsonValue:
    """The value that the user gave an option; None where it has its default, or the options are not known."""
    return report.request.options.get(option) if report.request else None


def _or(steps: list[str]) -> str:
    return steps[0] if len(steps) == 1 else f"{', '.join(steps[:-1])}, or {steps[-1]}"
