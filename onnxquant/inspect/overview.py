"""The overview of a model before it is quantized: what it is made of, what takes its time, and which ways suit it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from onnxquant import runtime
from onnxquant.calibration.feeds import Data, facts_of
from onnxquant.calibration.samples import Samples
from onnxquant.convert.prospect import in_words
from onnxquant.convert.ways import ways
from onnxquant.convert.work import PreparedModel, Work, work_of
from onnxquant.errors import FeedError
from onnxquant.graph.analysis.quantized import ALREADY_QUANTIZED
from onnxquant.graph.io import load
from onnxquant.inspect.node_labels import NodeLabels
from onnxquant.recipe.options import Options
from onnxquant.recipe.values import Goal
from onnxquant.runtime import NodeTime
from onnxquant.validation.reference import Reference

# Operators that are named, those first that take most time.
_OPERATORS = 5


@dataclass(frozen=True)
class Part:
    """A part of a model's weights or of its time.

    Attributes:
        name: kind of work, or operator.
        amount: bytes, or seconds in one run.
        share: its part of all.
    """

    name: str
    amount: float
    share: float


@dataclass(frozen=True)
class Overview:
    """The overview of a model.

    Attributes:
        model: the file.
        nbytes: its size, data files included.
        opset: opset of the default domain.
        nodes: number of nodes.
        weights: number of constant weights that something reads.
        stored: bytes of the weights by kind of what reads them, the largest first.
        seconds: time of one run on one thread.
        operators: operators that take most time.
        slowest: nodes that take most time, as the model calls them.
        is_synthetic: whether the time is that of a made-up sample.
        ways: names of the ways that suit, in the order in which they are tried.
        prospect: gain that integers would bring, in one sentence.
        commands: commands that come next.
    """

    model: str
    nbytes: int
    opset: int
    nodes: int
    weights: int
    stored: tuple[Part, ...]
    seconds: float
    operators: tuple[Part, ...]
    slowest: tuple[Part, ...]
    is_synthetic: bool
    ways: tuple[str, ...]
    prospect: str
    commands: tuple[str, ...]


def overview(model: str | Path, data: Data | None = None, **options: object) -> Overview:
    """The makeup of a model, the places of its bytes and its time, and the ways of quantizing that suit it.

    Args:
        model: the file.
        data: samples, the first of which is run; None: one is made up.
        options: ``dim``, ``preprocess``, ``seed``, ``threads``, ``external_root``, ``custom_op_library``.

    Raises:
        ModelError: the model cannot be read or run.
        FeedError: the data does not fit, or no made-up sample does.
    """
    settings = Options.make({**options, "samples": 1})
    document = load(model, settings.external_root)
    samples = None if data is None else Samples(data, settings, facts_of(document))
    with (
        runtime.custom_op_libraries(settings.custom_op_library),
        Reference(document, samples, settings) as reference,
    ):
        outputs = reference.outputs
        if isinstance(outputs, FeedError):
            raise outputs
        times = runtime.profile(reference.path, outputs.feeds[0], settings.threads)
    prepared = PreparedModel.of(document)
    work = work_of(prepared, times)
    integers = prepared.integers
    seconds, labels = sum(time.seconds for time in times), NodeLabels(document.proto)
    return Overview(
        model=str(model),
        nbytes=document.size(),
        opset=document.opset,
        nodes=work.nodes,
        weights=work.weights,
        stored=_stored(work),
        seconds=seconds,
        operators=_operators(times, seconds),
        slowest=tuple(Part(labels.label(t), t.seconds, t.seconds / (seconds or 1.0)) for t in work.slowest),
        is_synthetic=outputs.origin.is_synthetic,
        ways=() if integers else tuple(w.name for w in ways(prepared, work, Goal.FAST) if w.rescues is None),
        prospect=f"none: the model {ALREADY_QUANTIZED.format(integers)}" if integers else in_words(work),
        commands=_commands(str(model), data),
    )


def _stored(work: Work) -> tuple[Part, ...]:
    kinds = sorted(work.nbytes, key=lambda kind: -work.nbytes[kind])
    return tuple(Part(kind.value, work.nbytes[kind], work.share_of_bytes(kind)) for kind in kinds)


def _operators(times: list[NodeTime], seconds: float) -> tuple[Part, ...]:
    """The operators that take most time."""
    sums: dict[str, float] = {}
    for time in times:
        sums[time.op] = sums.get(time.op, 0.0) + time.seconds
    names = sorted(sums, key=lambda op: -sums[op])[:_OPERATORS]
    return tuple(Part(op, sums[op], sums[op] / (seconds or 1.0)) for op in names)


def _commands(model: str, data: Data | None) -> tuple[str, ...]:
    """The commands that come next."""
    samples = shlex.quote(str(data)) if isinstance(data, (str, Path)) else "SAMPLES"
    quantize = f"onnxquant quantize {shlex.quote(model)}"
    return (f"{quantize} --data {samples}", f"{quantize} --dry-run")
