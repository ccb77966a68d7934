"""The figures of a report in words, a line for each: what a person needs to know first."""

from __future__ import annotations

import math
from collections import Counter

from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.calibration.feeds.presets import IMAGES, SOUND
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.plan.activations import StaticRecord
from onnxquant.report import rows, units
from onnxquant.report.data import Choice, Float16Error, ReportData, Verdict
from onnxquant.report.units import decibels, figure, milliseconds, size, unseen
from onnxquant.report.verdict import counts_answers
from onnxquant.validation.latency import ORIGINAL
from onnxquant.validation.proof import Proof, Structure

# Samples and ops that are named.
_NAMED = 3
# One sample of a kind.
_UNITS = {IMAGES: "image", SOUND: "sound", "text": "text"}
# More memory by this factor is worth a line.
_MORE_MEMORY = 1.1
# An interval of a ratio whose ends are further apart than this factor: something else takes the processor.
_SCATTER = 1.3
# Constants that are a smaller part of the bytes are hardly any.
_SMALL_SHARE = 0.005


def lines(report: ReportData, verdict: Verdict) -> list[tuple[str, str]]:
    """The result in words, with the subject of each line; lines that are not known are left out."""
    proof = report.proof
    every = [
        ("size", smaller(report, verdict)),
        ("speed", faster(report, verdict)),
        ("memory", _memory(proof)),
        ("quality", quality(verdict)),
        ("answers", _uncounted(proof)),
        ("accuracy", _accuracy(proof)),
        ("metric", _metric(proof)),
        ("samples", _samples(proof.feeds) if proof and proof.feeds else ""),
        ("prepared", rows.preparation(report) or ""),
        ("weights", weights(report)),
        ("integers", _integers(report)),
        ("pruned", rows.pruning(report)),
        ("tuned", rows.tuning(report)),
        ("chosen", report.choice.reason if report.choice else ""),
        ("instead", report.choice.alternative if report.choice else ""),
        ("untried", _untried(report.choice) if report.choice else ""),
        ("outlook", report.prospect),
        ("nodes", _nodes(proof.structure) if proof and not report.sites else ""),
    ]
    return [(subject, text) for subject, text in every if text]


def smaller(report: ReportData, verdict: Verdict) -> str:
    """The sizes; empty where no file was written or planned."""
    after = report.final_bytes
    if not verdict.smaller or not after:
        return ""
    predicted = "" if report.output_bytes else ", predicted"
    return f"{size(report.original_bytes)} -> {size(after)}: {units.smaller(verdict.smaller)}{predicted}"


def faster(report: ReportData, verdict: Verdict) -> str:
    """The ratio of speeds with its interval, and the time of a call; empty where nothing was measured.

    The second time is the first one over the ratio, which other work on the machine moves less than either time.
    """
    if verdict.faster is None:
        return ""
    interval = verdict.faster_interval
    is_certain = interval is None or not interval.low <= 1 <= interval.high
    text = f"{verdict.faster:.2f}x as fast" if is_certain else f"about the same: {verdict.faster:.2f}x as fast"
    if interval is not None:
        text += f" ({interval.low:.2f} to {interval.high:.2f}"
        text += "; rounds differ, the machine is busy)" if interval.high > _SCATTER * interval.low else ")"
    latency = report.proof.latency if report.proof else None
    if latency is None or ORIGINAL not in latency.seconds:
        return text
    before = latency.seconds[ORIGINAL]
    threads = "" if latency.threads is None else f" on {latency.threads} thread{'s' * (latency.threads > 1)}"
    call = "" if latency.call is None else f", {latency.call}"
    return f"{text}: {milliseconds(before)} -> {milliseconds(before / verdict.faster)}{threads}{call}"


def quality(verdict: Verdict) -> str:
    """The answers that stay the same, and the signal to noise ratio of the worst output."""
    parts = []
    if verdict.answers:
        parts.append(verdict.answers_in_words)
    if verdict.unseen is not None:
        parts.append(unseen(verdict.unseen))
    elif verdict.worst_sqnr_db is not None:
        parts.append(_worst(verdict, verdict.worst_sqnr_db))
    return "; ".join(parts)


def _uncounted(proof: Proof | None) -> str:
    """The reason why no answers were counted, and the options that judge a file by others; empty where some were counted."""
    if proof is None or proof.feeds is None or proof.feeds.is_synthetic or not proof.quality:
        return ""
    if counts_answers(proof) or proof.metric is not None or proof.accuracy is not None:
        return ""
    unsure = next((part.output for part in proof.quality if part.answers), None)
    if unsure is None:
        return "not counted: no output shows classes, or yes and no; --metric judges by a measure of yours"
    return (
        f"not counted: nothing says that columns of {unsure} are classes; --judge {unsure} counts them as such, --metric "
        f"judges by a measure of yours"
    )


def _worst(verdict: Verdict, sqnr_db: float) -> str:
    if sqnr_db == math.inf:
        return "outputs are exactly the same"
    kind = "slice" if "[" in (verdict.worst_output or "") else "output"
    tenth = verdict.worst_tenth_db
    samples = "" if tenth is None else f" ({decibels(tenth)} in the worst tenth of samples)"
    return f"worst {kind} {verdict.worst_output}: signal to noise {decibels(sqnr_db)}{samples}"


def weights(report: ReportData) -> str:
    """Number of encoded weights, their formats and errors."""
    encoded = report.encoded
    formats = Counter(s.decision.format.name for s in encoded if s.decision.format)
    errors: list[ErrorFigures | Float16Error] = [s.error for s in encoded if s.error]
    if not report.sites and report.proof:
        formats = Counter(w.format for w in report.proof.weights.values())
        errors = [w.error for w in report.proof.weights.values()]
    if not formats:
        return ""
    count = formats.total()
    text = f"{count} encoded: "
    text += ", ".join(name if len(formats) == 1 else f"{name} {number}" for name, number in formats.most_common())
    if finite := [e.mse for e in errors if math.isfinite(e.mse)]:
        text += f"; average MSE {figure(average_mse(finite))}"
    return text + _in_float(report)


def _in_float(report: ReportData) -> str:
    """The constants that stay in float, the part of the bytes that they are, and why most of them do."""
    floats = [site.decision for site in report.sites if site.decision.format is None]
    if not floats:
        return ""
    share = sum(d.float_bytes for d in floats) / max(1, sum(s.decision.float_bytes for s in report.sites))
    reason = Counter(d.reason.partition(": ")[0] for d in floats).most_common(1)[0][0]
    part = f"{share:.0%} of their bytes" if share >= _SMALL_SHARE else "hardly any bytes"
    return f"; {len(floats)} other constant{'s' * (len(floats) > 1)} in float ({part}): {reason}"


def _untried(choice: Choice) -> str:
    """The ways that there was no time for, and what gives it; empty after Ctrl-C, which the next step tells."""
    if choice.interrupted or not choice.skipped:
        return ""
    return f"{'; '.join(choice.skipped)}: no time; --effort high or a longer --time tries them"


def average_mse(errors: list[float]) -> float:
    """The mean of the weights' mean squared errors, each weight counted once."""
    return sum(errors) / len(errors)


def _memory(proof: Proof | None) -> str:
    """The memory of a loaded model, where it grows."""
    if proof is None or proof.loading is None:
        return ""
    before, after = proof.loading.original.resident_bytes, proof.loading.quantized.resident_bytes
    return f"{size(before)} -> {size(after)} once loaded: more" if after > _MORE_MEMORY * before else ""


def _accuracy(proof: Proof | None) -> str:
    """The accuracy of both models, or why it is not known; empty where samples have no labels."""
    accuracy = proof.accuracy if proof else None
    if accuracy is None:
        return f"not known: {proof.no_accuracy}" if proof and proof.no_accuracy else ""
    names = ", ".join(f"{name} = {number}" for name, number in (accuracy.mapping or {}).items())
    classes = f"; folders in order are classes: {names} ..." if names else ""
    return f"{accuracy.text} on {accuracy.samples} samples ({accuracy.output}; labels of {accuracy.labels}{classes})"


def _metric(proof: Proof | None) -> str:
    metric = proof.metric if proof else None
    if metric is None:
        return ""
    return f"{metric.name}: {metric.original:.6g} -> {metric.quantized:.6g}, expected at least {metric.least:.6g}"


def _samples(feeds: SampleOrigin) -> str:
    """Number and source of the samples, and whether calibration saw them."""
    kind = "SYNTHETIC" if feeds.is_synthetic else ""
    if feeds.apart is not None:
        kind = "held-out" if feeds.apart else "calibration's own"
    unit = f"{_UNITS.get(feeds.kind or '', 'sample')}{'s' * (feeds.samples != 1)}"
    text = " ".join(filter(None, (str(feeds.samples), kind, unit)))
    if not feeds.is_synthetic:
        names = ", ".join((feeds.files or ())[:_NAMED])
        more = ", ..." if len(feeds.files or ()) > _NAMED else ""
        text += f" of {feeds.source}" + (f": {names}{more}" if names else "")
    return text


def _integers(report: ReportData) -> str:
    record = report.activations
    if record is None:
        return ""
    text = f"{record.integer_kernels} kernels compute on integers"
    in_float = len(record.left_in_float) if isinstance(record, StaticRecord) else 0
    return f"{text}, {in_float} in float" if in_float else text


def _nodes(structure: Structure) -> str:
    """Number of nodes, and why it changes."""
    before, after = structure.nodes
    added, removed = (
        ", ".join(f"{sign}{count} {op}" for op, count in list(ops.items())[:_NAMED])
        + (f", {sign}{sum(list(ops.values())[_NAMED:])} others" if len(ops) > _NAMED else "")
        for sign, ops in (("+", structure.added_ops), ("-", structure.removed_ops))
    )
    changes = ", ".join(filter(None, (added, removed)))
    return f"{before} -> {after}" + (f": {changes} ({structure.explained_by})" if changes else "")
