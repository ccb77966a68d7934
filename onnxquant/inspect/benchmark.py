"""Sizes and latencies of models side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onnxquant import runtime
from onnxquant.arguments import checked
from onnxquant.calibration.feeds import Data, facts_of
from onnxquant.calibration.feeds.prepared import preparation
from onnxquant.calibration.samples import Samples
from onnxquant.errors import RecipeError
from onnxquant.graph.io import load
from onnxquant.recipe.options import Options
from onnxquant.validation.latency import Interval, TimedModel, latencies
from onnxquant.validation.reference import sampled_outputs
from onnxquant.validation.structure import refuse_other_inputs


@dataclass(frozen=True)
class BenchmarkRow:
    """Figures of one model.

    Attributes:
        model: path of the model.
        bytes: size on disk, data files included.
        size_ratio: bytes of the first model over those of this one.
        seconds: median seconds per call: of the processor with one thread, of the clock with more.
        speed_ratio: processor time of the first model over that of this one.
        runs: number of runs.
        threads: number of threads.
        kernels: number of nodes by op in the graph that onnxruntime runs.
        samples: steps from images or texts to the inputs; None: the sample was an array.
        speed_interval: interval that holds ``speed_ratio`` 19 times of 20.
        spread: distance between the quartiles of the pairs of runs of ``speed_ratio``, as a part of it.
    """

    model: str
    bytes: int
    size_ratio: float
    seconds: float
    speed_ratio: float
    runs: int
    threads: int | None
    kernels: dict[str, int]
    speed_interval: Interval | None = None
    samples: str | None = None
    spread: float | None = None


@checked
def benchmark(*models: str | Path, data: Data | None = None, **options: object) -> list[BenchmarkRow]:
    """Sizes and latencies of models with the same inputs, their runs interleaved; one row each.

    Args:
        models: ONNX files; ratios refer to the first.
        data: samples, of which the first is run; None: synthetic, for a decoder with a cache one token after others.
        options: ``seed``, ``threads``, ``dim``, ``external_root``, ``custom_op_library``.

    Raises:
        RecipeError: no model is given, or an option is wrong.
        ModelError: a model does not load or run.
    """
    if not models:
        raise RecipeError("benchmark takes at least one model")
    settings = replace(Options.make(options), samples=1)
    paths = [Path(m) for m in models]
    documents = [load(p, settings.external_root) for p in paths]
    for document in documents[1:]:
        refuse_other_inputs(documents[0], document)
    sizes = [document.size() for document in documents]
    samples = None if data is None else Samples(data, settings, facts_of(*documents))
    with runtime.custom_op_libraries(settings.custom_op_library):
        sampled = sampled_outputs(paths[0], samples, settings)
        feed = sampled.step or sampled.feeds[0]
        measured = latencies({str(i): TimedModel(p) for i, p in enumerate(paths)}, feed, settings.threads)
        return [
            BenchmarkRow(
                model=str(path),
                bytes=size,
                size_ratio=sizes[0] / size,
                seconds=measured.seconds[str(i)],
                speed_ratio=measured.ratio[str(i)],
                runs=measured.runs,
                threads=measured.threads,
                kernels=runtime.optimized_ops(path, threads=settings.threads),
                speed_interval=measured.certain(str(i)),
                samples=preparation(sampled.origin),
                spread=measured.spread[str(i)] if measured.spread else None,
            )
            for i, (path, size) in enumerate(zip(paths, sizes, strict=True))
        ]
