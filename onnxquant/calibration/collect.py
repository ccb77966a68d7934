"""Collection of statistics: a float model runs on samples, one by one, and observers see its tensors."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration import compiled
from onnxquant.calibration.checkpoint import Checkpoint, fingerprint
from onnxquant.calibration.feeds import Feed, Feeds
from onnxquant.calibration.folds import FoldedSamples
from onnxquant.calibration.statistics import Statistics
from onnxquant.calibration.watch import Watch
from onnxquant.errors import FeedError, StatisticsError, nearest
from onnxquant.graph.identity import digest
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN
from onnxquant.recipe.progress import Progress, silent

MEMORY = 1 << 30
"""Bytes that the observed tensors of one sample may take together; more are observed in several runs."""

# How often a checkpoint is written.
_CHECKPOINT_SECONDS = 10.0
# Bytes of an element of the types that have ranges.
_FLOATS = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(double)": 8, "tensor(bfloat16)": 2}


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """The way in which statistics are collected; it has no influence on them.

    Attributes:
        checkpoint: file for the state of the collection, written every ten seconds and on an interruption between samples.
            If it is there already, the collection goes on with it: the result is that of an uninterrupted one.
        memory: bytes that the observed tensors of one sample may take; above it the model runs once per group of tensors.
        compiled: let observers of the compiled library see tensors in place, where the library is there.
    """

    checkpoint: Path | None = None
    memory: int = MEMORY
    compiled: bool = True


@dataclass(frozen=True)
class _Run:
    """A run of a collection: number of threads, display of the part that is done, checkpoint and limits."""

    threads: int | None
    progress: Progress
    settings: CollectSettings


def collect(
    model: Path | Document,
    feeds: Feeds,
    observers: Mapping[str, Iterable[str]],
    *,
    threads: int | None = None,
    progress: Progress = silent,
    settings: CollectSettings | None = None,
) -> Statistics:
    """Observe tensors of a float model.

    Memory is bounded by the weights, the observed tensors of one sample (or ``settings.memory``, where that is less) and
    the statistics; not by the number of samples.

    Args:
        model: a file, or a document.
        feeds: the samples.
        observers: names of observers by tensor. Tensors are inputs, outputs and anything that the main graph computes.
        threads: number of threads of the session; None: ONNX Runtime's choice.
        progress: display of the part that is done.
        settings: checkpoint and limits.

    Returns:
        the statistics; ``skipped`` names tensors that could not be observed, and why.

    Raises:
        StatisticsError: an unknown tensor or observer, or a checkpoint of something else.
        FeedError: there are no samples.
        ModelError: the model does not load, or does not run on a sample.
    """
    run = _Run(threads, progress, settings or CollectSettings())
    return _collected(model, FoldedSamples(feeds, (), ()), observers, run)[0]


def collect_folds(
    model: Path | Document,
    samples: FoldedSamples,
    observers: Mapping[str, Iterable[str]],
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[Statistics]:
    """Observe tensors of a float model, the samples of each fold apart; statistics of samples without folds are one.

    Args:
        model: a file, or a document.
        samples: the samples.
        observers: names of observers by tensor.
        threads: number of threads of the session; None: ONNX Runtime's choice.
        progress: display of the part that is done.

    Raises:
        StatisticsError: an unknown tensor or observer.
        FeedError: there are no samples.
        ModelError: the model does not load, or does not run on a sample.
    """
    return _collected(model, samples, observers, _Run(threads, progress, CollectSettings()))


def _collected(
    model: Path | Document, samples: FoldedSamples, observers: Mapping[str, Iterable[str]], run: _Run
) -> list[Statistics]:
    """Statistics of each fold."""
    settings, feeds = run.settings, samples.feeds
    run.progress("loading", 0.0)
    with runtime.extendable(model, run.threads) as source:
        first = next(iter(feeds), None)
        if first is None:
            raise FeedError("there are no samples to calibrate with")
        checkpoint = Checkpoint(settings.checkpoint, fingerprint(feeds, first)) if settings.checkpoint else None
        native = settings.compiled and compiled.available()
        collection = _Collection(source, samples, observers, checkpoint, native=native)
        for group in collection.groups(first, settings.memory):
            collection.observe(group, run.progress)
        return collection.finished()


class _Collection:
    """Statistics that are being collected, of each fold apart.

    ``_counts`` holds the number of samples that each tensor has been observed in, so that a collection can go on with any
    grouping of tensors.

    Args:
        source: the model.
        samples: the samples.
        observers: names of observers by tensor.
        checkpoint: the file to go on with and to save to; None: none.
        native: whether observers of the compiled library are used.
    """

    def __init__(
        self,
        source: runtime.ExtendableModel,
        samples: FoldedSamples,
        observers: Mapping[str, Iterable[str]],
        checkpoint: Checkpoint | None,
        *,
        native: bool,
    ) -> None:
        self._source, self._feeds, self._checkpoint, self._native = source, samples.feeds, checkpoint, native
        model = digest(source.document)
        self._folds = samples.folds or (0,) * len(samples.feeds)
        self._statistics = [Statistics.of(model, observers) for _ in range(max(1, samples.count))]
        self._counts = dict.fromkeys(self._statistics[0].observers, 0)
        self._inputs = {i.name for i in source.document.proto.graph.input}
        self._skip_unreachable()
        self._element_bytes = self._sizes_of_elements()
        self._watches: list[Watch] = []
        self._is_consistent = True  # every observed value is counted in _counts: the state may be saved
        self._saved_at = time.monotonic()
        self._fold = 0
        if checkpoint is not None and checkpoint.exists():
            self._statistics[0], self._counts = checkpoint.read(self._statistics[0])

    def _skip_unreachable(self) -> None:
        """Skip tensors that no session can show.

        Raises:
            StatisticsError: the model has no such tensor.
        """
        graph = self._source.document.proto.graph
        constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        constants |= {o for n in graph.node if n.op_type == "Constant" for o in n.output}
        computed = {o for n in graph.node for o in n.output if o}
        inner = runtime.subgraph_tensors(self._source.document.proto)
        for name in list(self._counts):
            if name in constants:
                self._skip(name, "is a constant")
            elif name in inner and name not in computed:
                self._skip(
                    name, f"is computed in a subgraph of {inner[name]}: only tensors of the main graph can be shown"
                )
            elif name not in computed and name not in self._inputs:
                raise StatisticsError(f"the model has no tensor {name!r}{nearest(name, [*self._inputs, *computed])}")

    def _sizes_of_elements(self) -> dict[str, int]:
        """Bytes of an element of each tensor; tensors that hold no floats are skipped."""
        session = self._source.session(runtime.output_addition(self._hidden()), optimize=False)
        types = {**runtime.outputs_of(session), **{n: t for n, t, _ in runtime.inputs_of(session)}}
        sizes = {name: _FLOATS.get(types[name], 0) for name in self._counts}
        for name, size in sizes.items():
            if not size:
                self._skip(name, f"is {types[name]}; ranges are for floats")
        return sizes

    def _hidden(self) -> list[str]:
        """Tensors that are neither inputs nor outputs of the model."""
        shown = self._inputs | {o.name for o in self._source.document.proto.graph.output}
        return [name for name in self._counts if name not in shown]

    def _skip(self, tensor: str, reason: str) -> None:
        """Leave a tensor out from now on."""
        for statistics in self._statistics:
            statistics.skipped[tensor] = reason
            del statistics.observers[tensor]
        del self._counts[tensor]

    def groups(self, first: Feed, memory: int) -> list[list[str]]:
        """Tensors that are observed together: those observed in equally many samples, and no more of them than fit in memory.

        Args:
            first: the first sample.
            memory: bytes that the tensors of a group may take in that sample.
        """
        sizes = self._tensor_bytes(first)
        groups: list[list[str]] = []
        for count in sorted(set(self._counts.values()), reverse=True):
            room = 0
            for name in (n for n, c in self._counts.items() if c == count < len(self._feeds)):
                if room < sizes[name] or not groups:
                    groups.append([])
                    room = memory
                groups[-1].append(name)
                room -= sizes[name]
        return groups

    def _tensor_bytes(self, first: Feed) -> dict[str, int]:
        """Bytes of each tensor of a sample that leaves the session, from its shape: only shapes are fetched for this."""
        fetched = [name for i, name in enumerate(self._counts) if self._watch(name, i).is_fetched]
        inner = [name for name in fetched if name not in self._inputs]
        if not inner:
            return dict.fromkeys(self._counts, 0)
        session = self._source.session(runtime.shape_addition(inner))
        shapes = runtime.run(session, first, [runtime.shape_output(i) for i in range(len(inner))])
        sizes = {name: prod(map(int, shape)) for name, shape in zip(inner, shapes.values(), strict=True)}
        sizes.update({name: first[name].size for name in fetched if name in self._inputs and name in first})
        return {name: sizes.get(name, 0) * self._element_bytes[name] for name in self._counts}

    def observe(self, group: Sequence[str], progress: Progress) -> None:
        """Run the samples that a group has not been observed in."""
        self._watches, self._fold = [self._watch(name, i) for i, name in enumerate(group)], 0
        session = self._source.observing(self._addition())
        outputs = [output for watch in self._watches for output in watch.outputs(self._inputs)]
        start = self._counts[group[0]]
        try:
            for index, feed in enumerate(islice(self._feeds, start, None), start):
                self._is_consistent = not self._native  # the library sees tensors while the session runs
                self._turn_to(self._folds[index])
                values: dict[str, NDArray[Any]] = {**feed, **runtime.run(session, feed, outputs)}
                for watch in self._watches:
                    self._see(watch, values, index)
                self._is_consistent = True
                progress("calibrating", self._part_done())
                self._save(after_seconds=_CHECKPOINT_SECONDS)
            self._drain()
        except BaseException:
            self._save(after_seconds=0.0)
            raise

    def _addition(self) -> onnx.ModelProto:
        """The outputs and nodes that show the watched tensors."""
        addition = onnx.ModelProto()
        if self._native and DOMAIN not in {o.domain for o in self._source.document.proto.opset_import}:
            addition.opset_import.add(domain=DOMAIN, version=1)
        for watch in self._watches:
            watch.extend(addition)
        return addition

    def _watch(self, name: str, index: int) -> Watch:
        native = self._native and self._element_bytes[name] == _FLOATS["tensor(float)"]
        shown = name not in self._hidden()
        return Watch(name, self._statistics[0].accumulators(name), index, compiled=native, shown=shown)

    def _turn_to(self, fold: int) -> None:
        """Let the statistics of a fold see the next samples."""
        if fold == self._fold:
            return
        self._drain()
        for watch in self._watches:
            if watch.name in self._counts:
                watch.turn_to(self._statistics[fold].accumulators(watch.name))
        self._fold = fold

    def _see(self, watch: Watch, values: Mapping[str, NDArray[Any]], index: int) -> None:
        if watch.name not in self._counts:
            return
        self._is_consistent = False
        try:
            watch.see(values)
        except StatisticsError as error:
            self._skip(watch.name, f"{error} in sample {index}")
        else:
            self._counts[watch.name] = index + 1
        self._is_consistent = not self._native

    def _drain(self) -> None:
        """Take over the statistics that the library holds."""
        for watch in self._watches:
            if watch.name in self._counts:
                watch.drain()

    def _part_done(self) -> float:
        return sum(self._counts.values()) / max(1, len(self._counts) * len(self._feeds))

    def _save(self, *, after_seconds: float) -> None:
        """Write the checkpoint if the last one is old enough."""
        if self._checkpoint is None or not self._is_consistent or time.monotonic() - self._saved_at < after_seconds:
            return
        self._drain()
        self._checkpoint.write(self._statistics[0], self._counts)
        self._saved_at = time.monotonic()

    def finished(self) -> list[Statistics]:
        """The statistics of each fold, complete."""
        for fold, statistics in enumerate(self._statistics):
            statistics.samples = self._folds.count(fold)
            statistics.sources = [replace(self._feeds.origin, samples=statistics.samples)]
        return self._statistics
