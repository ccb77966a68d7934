"""The prospect of a model that was quantized without samples: what they would bring, in one sentence."""

from __future__ import annotations

from onnxquant import runtime
from onnxquant.convert.work import Kind, Work, kind_of_op, kind_of_role, sums_by_kind
from onnxquant.report.report import Report

# A model that gets faster by less is not said to.
_WORTHWHILE = 1.2
# Kinds whose time integers save.
_INTEGERS = (Kind.CONVOLUTION, Kind.PRODUCT)


def prospect(report: Report) -> str:
    """The gain that samples would bring a model, in one sentence; empty where its proof has not measured its time.

    Args:
        report: report on a file of the model that was made without samples.
    """
    times = report.proof.op_times if report.proof else None
    if not times:
        return ""
    seconds = sums_by_kind((kind_of_op(time.op), time.original) for time in times)
    ops = sums_by_kind((kind_of_role(site.decision.role), 1) for site in report.sites if site.decision.role)
    return in_words(Work({}, seconds, ops=ops))


def in_words(work: Work) -> str:
    """The gain that samples would bring a model of such work, in one sentence."""
    faster = work.speedup(vnni=has_vnni())
    most = max(_INTEGERS, key=work.share_of_time)
    share = work.share_of_time(*_INTEGERS)
    if faster < _WORTHWHILE:
        return (
            f"{share:.0%} of its time is convolutions and matrix products: samples (--data) would judge the outputs, but "
            f"hardly make it faster."
        )
    part = "Most" if work.share_of_time(most) > 1 / 2 else f"{work.share_of_time(most):.0%}"
    return (
        f"{part} of its time is {most}: on integers, which --data tries, it would run about {_rounded(faster)} times as "
        f"fast, where these keep its answers."
    )


def has_vnni() -> bool:
    """Whether this CPU multiplies 8-bit integers in one instruction, or has instructions as good."""
    return any("vnni" in name or name in ("amx", "neon") for name in runtime.instruction_sets())


def _rounded(factor: float) -> str:
    """A factor in steps that an estimate can tell apart."""
    return f"{round(factor * 2) / 2:g}" if factor >= 1.75 else f"{round(factor * 10) / 10:g}"
