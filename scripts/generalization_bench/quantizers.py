"""Ways of quantizing activations that are compared, and the quality of what they write on samples never seen."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from peer_bench.job import Reader
from peer_bench.preprocess import preprocess

import onnxquant
from onnxquant.numerics.score import Judge
from onnxquant.plan.activations import StaticRecord

from .networks import Feed, Samples

Outputs = list[NDArray[np.float64]]
OURS = "onnxquant"
# First opset whose DequantizeLinear takes a scale per channel.
PER_CHANNEL = 13


@dataclass(frozen=True)
class Quality:
    """Decibels of a file on samples never seen, of its worst output.

    Attributes:
        mean: mean over the samples.
        worst_tenth: mean over the worst tenth of them.
        worst: that of the worst sample.
        whole: ratio of the powers of all samples together.
    """

    mean: float
    worst_tenth: float
    worst: float
    whole: float


@dataclass
class Result:
    """One file and its quality.

    Attributes:
        quality: quality on samples never seen, with exact integer products.
        whole_here: decibels of all samples together as this CPU computes them.
        mean_here, tenth_here: mean over the samples, and over the worst tenth, as our report counts them and this CPU
            computes them.
        claim: mean that our report expects on samples it has not seen; None: no report.
        claim_tenth: that of the worst tenth.
        claim_low, claim_high: interval of the report.
        seconds: processor time of the conversion.
        error: why there is no file.
    """

    quality: Quality | None = None
    whole_here: float | None = None
    mean_here: float | None = None
    tenth_here: float | None = None
    claim: float | None = None
    claim_tenth: float | None = None
    claim_low: float | None = None
    claim_high: float | None = None
    seconds: float = 0.0
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


Tool = Callable[[Path, Samples, Path, Result], None]
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def tools(effort: str) -> dict[str, Tool]:
    """The ways by name; each writes a file."""
    peers = {name: partial(_onnxruntime, method) for name, method in _METHODS.items()}
    return {OURS: partial(_ours, effort), **peers}


def run(tool: Tool, model: Path, samples: Samples, expected: list[Outputs]) -> Result:
    """Quantize with a tool, and judge the file."""
    result, start = Result(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "quantized.onnx"
        try:
            tool(model, samples, output, result)
            result.seconds = time.process_time() - start
            result.quality = quality(expected, outputs(output, samples.unseen))
            if result.claim is not None:
                _judge_here(result, expected, outputs(output, samples.unseen, exact=False))
        except Exception as error:  # a refusal is a result
            result.error = f"{type(error).__name__}: {error}"[:200]
    return result


def _judge_here(result: Result, expected: Sequence[Outputs], actual: Sequence[Outputs]) -> None:
    """Add the figures as our report counts them: no sample has less signal than a hundredth of the mean, or above 100 dB."""
    result.whole_here = quality(expected, actual).whole
    names = [str(index) for index in range(len(expected[0]))]
    reference, outputs_ = ([dict(zip(names, sample, strict=True)) for sample in side] for side in (expected, actual))
    unseen = Judge(reference).unseen(outputs_, list(map(str, range(len(reference))))).expected
    if unseen is not None:
        result.mean_here, result.tenth_here = unseen.sqnr_db, unseen.worst_tenth_db


def _ours(effort: str, model: Path, samples: Samples, output: Path, result: Result) -> None:
    folder = output.with_name("samples")
    folder.mkdir()
    for name, feed in samples.calibrating.items():
        arrays = list(feed.values())
        if len(arrays) == 1:
            np.save(folder / f"{name}.npy", arrays[0])
        else:
            np.savez(folder / f"{name}.npz", **dict(feed))  # type: ignore[arg-type]
    report = onnxquant.quantize(model, output, data=folder, activations="static", threads=1, force=True, effort=effort)
    if unseen := report.verdict.unseen:
        result.claim, result.claim_tenth = unseen.sqnr_db, unseen.worst_tenth_db
        result.claim_low, result.claim_high = unseen.low_db, unseen.high_db
    if isinstance(report.activations, StaticRecord):
        result.facts = {"method": report.activations.method, "functions": dict(report.activations.variants)}


def _onnxruntime(method: CalibrationMethod, model: Path, samples: Samples, output: Path, result: Result) -> None:
    prepared = output.with_name("prepared.onnx")
    model = _with_axes(model, output.with_name("newer.onnx"))
    logging.disable(logging.WARNING)
    for options in ({}, {"skip_symbolic_shape": True}, {"skip_symbolic_shape": True, "skip_optimization": True}):
        try:
            preprocess(model, prepared, **options)
            break
        except Exception as error:  # its own advice is to go without
            result.facts["preparation"] = str(error)[:100]
    with redirect_stdout(StringIO()):
        quantize_static(
            prepared if prepared.exists() else model,
            output,
            Reader([dict(feed) for feed in samples.calibrating.values()]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )


def _with_axes(model: Path, newer: Path) -> Path:
    """A model of an opset whose DequantizeLinear has an axis: older ones cannot be quantized per channel."""
    proto = onnx.load(model)
    if max(entry.version for entry in proto.opset_import if not entry.domain) >= PER_CHANNEL:
        return model
    onnx.save(onnx.version_converter.convert_version(proto, PER_CHANNEL), newer)
    return newer


def outputs(path: Path, feeds: Sequence[Feed], *, exact: bool = True) -> list[Outputs]:
    """Outputs of each sample, with exact integer products or with those of this CPU."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [[np.asarray(o, np.float64) for o in session.run(None, dict(feed))] for feed in feeds]


def quality(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> Quality:
    """The quality of the worst output."""
    qualities = []
    for index in range(len(expected[0])):
        pairs = [(a[index], b[index]) for a, b in zip(expected, actual, strict=True)]
        powers = [(float((a**2).sum()), float(((a - b) ** 2).sum())) for a, b in pairs]
        if any(signal for signal, _ in powers):
            qualities.append(_quality(powers))
    return min(qualities, key=lambda q: q.mean)


def _quality(powers: Sequence[tuple[float, float]]) -> Quality:
    ratios = sorted(_decibels(signal, noise) for signal, noise in powers)
    tenth = ratios[: max(1, len(ratios) // 10)]
    whole = _decibels(sum(signal for signal, _ in powers), sum(noise for _, noise in powers))
    return Quality(sum(ratios) / len(ratios), sum(tenth) / len(tenth), ratios[0], whole)


def _decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(max(signal, 1e-30) / max(noise, 1e-30))
