"""Warnings of a report: facts that a user should know before trusting the result."""

from __future__ import annotations

import math

from onnxquant.numerics.score import GOOD_DB, LOW_DB
from onnxquant.plan.activations import ActivationRecord, DynamicRecord
from onnxquant.report import advice
from onnxquant.report.data import ReportData
from onnxquant.report.verdict import NEGLIGIBLE_GAIN, ratios_of_outputs
from onnxquant.targets.kinds import Activations
from onnxquant.validation.latency import STOCK
from onnxquant.validation.leftover_conversions import DEQUANTIZE
from onnxquant.validation.outputs import Run
from onnxquant.validation.proof import Proof
from onnxquant.validation.saturation import SATURATED_DB

# The optimized graph may round a little differently than the plain one, but not worse by this much.
FUSION_DB = 3.0
_CLAMPS = ("Relu", "Clip")


def warnings(report: ReportData) -> list[str]:
    """The warnings of a report, as they were saved with it or as they follow from its fields."""
    if report.judgement is not None:
        return report.judgement.warnings
    out = [f"{s.decision.name}: {s.warning}" for s in report.sites if s.warning]
    out += [f"rule {i} of the recipe matched nothing" for i in report.unused_rules]
    proof = report.proof
    if proof and (count := _decoded_on_every_call(proof)):
        out.append(
            f"{count} weights are decoded on every call: their DequantizeLinear stays in the graph that onnxruntime runs; "
            f"--target ort avoids that"
        )
    out += activation_warnings(report.activations, proof) + _weight_only(report)
    if proof:
        out += _doubts(report, proof)
        if proof.feeds and proof.feeds.is_synthetic:
            out.append("outputs were compared on SYNTHETIC samples: give --data for figures that tell the accuracy")
        out += (proof.feeds.remarks if proof.feeds else None) or ()
        if proof.unseen and not proof.unseen.is_precise and proof.unseen.low_db < GOOD_DB:
            out.append(
                f"samples of {proof.unseen.sources} sources differ too much for a figure of those that the file has not "
                f"seen: it lies between {proof.unseen.low_db:.0f} and {proof.unseen.high_db:.0f} dB, 9 times of 10; samples "
                f"of more sources make it narrower"
            )
        elif proof.feeds and proof.feeds.apart is False and not proof.unseen:
            out.append(
                "outputs were compared on samples that the file was made from, so others will lose more: give at least 8 "
                "samples of different sources, and some of them are held out"
            )
    return out


def activation_warnings(activations: ActivationRecord | None, proof: Proof | None) -> list[str]:
    """Warnings about integer activations that cost speed or accuracy, and where they do."""
    if activations is None:
        return []
    out = _slow(activations, proof)
    return out + ([*_saturation(proof), *_fusion(proof)] if proof else [])


def _decoded_on_every_call(proof: Proof) -> int:
    """Number of weights that are decoded on every call."""
    if proof.activations.conversions is not None:
        return sum(c.decodes_weight for c in proof.activations.conversions)
    return min(proof.structure.added_ops.get(DEQUANTIZE, 0), (proof.kernels.stock or {}).get(DEQUANTIZE, 0))


def is_slow_without_library(report: ReportData) -> bool:
    """Whether a file with operators of ours that came by themselves is slower than the original on onnxruntime alone.

    Formats of ours are asked for by name; operators between integer kernels come by themselves.
    """
    latency = report.proof.latency if report.proof else None
    return bool(report.activations and latency and STOCK in latency.ratio and latency.certain(STOCK).high < 1)


def _doubts(report: ReportData, proof: Proof) -> list[str]:
    """Warnings about a proof that passed."""
    out = []
    worst = min(ratios_of_outputs(proof).values(), default=math.inf)
    if worst < LOW_DB:
        text = advice.more_accurate(report, proof)
        out.append(f"the worst output has only {worst:.1f} dB: the file is correct, but {text}")
    changed = any(w.error.sqnr_db != math.inf for w in proof.weights.values())
    twins = proof.errors(Run.FLOAT, Run.TWIN)
    if changed and twins and all(e.sqnr_db == math.inf for e in twins.values()):
        out.append("weights changed but no output did: these samples do not exercise them; give --data")
    if report.output_bytes and report.encoded and report.original_bytes < NEGLIGIBLE_GAIN * report.output_bytes:
        out.append("the file is hardly smaller: most weights stay in float; -v says why")
    if proof.latency and is_slow_without_library(report):
        ratio = proof.latency.ratio[STOCK]
        out.append(
            f"where our library is not registered the file is slower than the original, {ratio:.2f}x as fast: "
            f"register it, or --for onnxruntime makes a file for onnxruntime alone"
        )
    return out + [f"{name}: {w.checks.doubt}" for name, w in proof.weights.items() if w.checks and w.checks.doubt]


def _weight_only(report: ReportData) -> list[str]:
    """A warning about weights that dynamic activations pass by."""
    if not isinstance(report.activations, DynamicRecord) or report.choice is not None:  # static ones were tried
        return []
    sites = (s.decision for s in report.encoded)
    convs = [d for d in sites if d.role == "conv" and d.target != Activations.DYNAMIC]
    if not convs:
        return []
    return [
        f"{len(convs)} convolutions compute in float, and only their weights are smaller: ConvInteger, which would round "
        f"their inputs on every call, is many times slower than float; --activations static computes them on integers"
    ]


def _slow(activations: ActivationRecord, proof: Proof | None) -> list[str]:
    """Warnings of activations that are no faster than float, or could be faster."""
    kind = activations.code_type
    if kind.endswith("16"):
        return [f"{kind} activations have no integer kernels on CPUs and are slower than float; uint8 is fast"]
    out = []
    if activations.integer_kernels == 0:
        out.append("no op computes on integers, so only the weights are smaller; -v gives the reason for each op")
    if kind == "int8":
        out.append("int8 activations are slower than uint8 ones on x86 CPUs, which multiply unsigned by signed bytes")
    ops = (proof.kernels.stock or {}) if proof else {}
    clamps = sum(ops.get(op, 0) for op in _CLAMPS)
    if activations.symmetric and clamps:
        out.append(
            f"{clamps} Relu or Clip stay as nodes of their own, with conversions around them: codes that are symmetric "
            f"around zero cannot clamp at zero by saturating"
        )
    return out


def _saturation(proof: Proof) -> list[str]:
    """Warnings of kernels that saturate on CPUs without VNNI."""
    low = {n: loss.sqnr_db for n, loss in (proof.activations.saturation or {}).items() if loss.sqnr_db < SATURATED_DB}
    if not low:
        return []
    worst = min(low, key=lambda n: low[n])
    many = f"{len(low)} kernel{'s' * (len(low) > 1)}"
    return [
        f"on x86 CPUs without VNNI {many} would lose accuracy to 16-bit saturation ({worst}: {low[worst]:.1f} dB); for those "
        f"CPUs set the session option session.x64quantprecision to 1 (exact, slower), or keep these kernels in float with "
        f"--exclude; CPUs with VNNI and ARM are exact"
    ]


def _fusion(proof: Proof) -> list[str]:
    """Warnings of outputs that ONNX Runtime's optimizations make worse."""
    out = []
    deployed = proof.errors(Run.FLOAT, Run.DEPLOYED)
    for name, plain in proof.errors(Run.FLOAT, Run.UNOPTIMIZED).items():
        before, after = plain.sqnr_db, deployed.get(name, plain).sqnr_db
        if after < before - FUSION_DB:
            out.append(
                f"output {name!r} keeps {after:.1f} dB as onnxruntime optimizes the graph and {before:.1f} dB without: a "
                f"fused kernel rounds worse than the nodes it replaces"
            )
    return out
