"""The prospect of a model that was quantized without samples: what they would bring, in one sentence."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxquant import runtime
from onnxquant.convert.work import Kind, Work, work_of
from onnxquant.errors import OnnxQuantError
from onnxquant.graph.io import Document, load
from onnxquant.recipe.options import Options
from onnxquant.validation.compare import LARGE_BYTES
from onnxquant.validation.reference import Reference

# A model that gets faster by less is not said to.
_WORTHWHILE = 1.2
# Kinds whose time integers save.
_INTEGERS = (Kind.CONVOLUTION, Kind.PRODUCT)


def prospect(source: str | Path | onnx.ModelProto, options: Options) -> str:
    """The gain that samples would bring, in one sentence; empty where the time of the model cannot be measured.

    Args:
        source: the model.
        options: options of the run.
    """
    original = load(source, options.external_root)
    if original.size() > LARGE_BYTES or not options.proof:
        return ""
    try:
        return in_words(measured_work(original, options))
    except OnnxQuantError:  # no made-up sample fits the model
        return ""


def measured_work(original: Document, options: Options) -> Work:
    """The work of a model, measured on a made-up sample.

    Raises:
        OnnxQuantError: no made-up sample fits the model.
    """
    with Reference(original, None, options) as reference:
        samples = reference.outputs
        if isinstance(samples, OnnxQuantError):
            raise samples
        return work_of(original, runtime.profile(reference.path, samples.feeds[0], options.threads))


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
    return f"{part} of its time is {most}: with --data it would run about {_rounded(faster)} times as fast."


def has_vnni() -> bool:
    """Whether this CPU multiplies 8-bit integers in one instruction, or has instructions as good."""
    return any("vnni" in name or name in ("amx", "neon") for name in runtime.instruction_sets())


def _rounded(factor: float) -> str:
    """A factor in steps that an estimate can tell apart, rounded down."""
    return f"{int(factor * 2) / 2:g}" if factor >= 1.5 else f"{int(factor * 10) / 10:g}"
