"""The run that shows a float model's tensors to observers, sample by sample."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration import compiled as compiled_
from onnxquant.calibration.feeds import Feed, Feeds
from onnxquant.calibration.statistics import PARTIAL, Statistics
from onnxquant.calibration.watch import Watch
from onnxquant.errors import FeedError, StatisticsError, nearest
from onnxquant.graph.identity import digest
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN

Progress = Callable[[str, float], None]
MEMORY = 1 << 30
"""Bytes that the observed tensors of one sample may take together; more are observed in several runs."""

# How often a checkpoint is written.
_CHECKPOINT_SECONDS = 10.0
_FLOATS = {"tensor(float)": 4, "tensor(float16)": 2, "tensor(double)": 8, "tensor(bfloat16)": 2}


def _silent(stage: str, done: float) -> None:
    """No progress display."""


def collect(
    model: Path | Document,
    feeds: Feeds,
    wanted: Mapping[str, Iterable[str]],
    *,
    threads: int | None = None,
    progress: Progress = _silent,
    checkpoint: Path | None = None,
    memory: int = MEMORY,
    compiled: bool = True,
) -> Statistics:
    """Observe tensors of a float model.

    Memory is bounded by the weights, the observed tensors of one sample (or ``memory``, where that is less) and the
    statistics; not by the number of samples.

    Args:
        model: a file, or a document.
        feeds: the samples.
        wanted: tensor -> names of observers. Tensors are inputs, outputs and whatever the main graph computes.
        threads: of the session; None: ONNX Runtime's choice.
        progress: called with a stage's name and how much of it is done (0 to 1).
        checkpoint: where the state is kept every ten seconds, and when the run is interrupted between samples. A file
            that is there already is resumed from: the result is the one of an uninterrupted run.
        memory: bytes that the observed tensors of one sample may take; above it the model runs once per group of tensors.
        compiled: let the compiled library observe what it can, where it is; it sees tensors in place.

    Returns:
        the statistics; ``skipped`` names tensors that could not be observed, and why.

    Raises:
        StatisticsError: an unknown tensor or observer, or a checkpoint of something else.
        FeedError: there are no samples.
        ModelError: the model does not load, or does not run on a sample.
    """
    progress("loading", 0.0)
    with runtime.extendable(model, threads) as source:
        first = next(iter(feeds), None)
        if first is None:
            raise FeedError("there are no samples to calibrate with")
        run = _Run(source, feeds, wanted, _Fingerprint(feeds, first), checkpoint)
        run.compiled = compiled and compiled_.available()
        for group in run.groups(first, memory):
            run.observe(group, progress)
        return run.finished()


class _Fingerprint:
    """What a checkpoint must have in common with the run that resumes from it, besides the model."""

    def __init__(self, feeds: Feeds, first: Feed) -> None:
        total = hashlib.sha256()
        for name, array in sorted(first.items()):
            total.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
            total.update(repr(array.tolist()).encode() if array.dtype.kind in "OUS" else array.tobytes())
        self.fields = {"samples": len(feeds), "first sample": total.hexdigest()}


class _Run:
    """Statistics in the making; ``seen`` counts the samples of each tensor, so that any grouping can go on with it."""

    def __init__(
        self,
        source: runtime.ExtendableModel,
        feeds: Feeds,
        wanted: Mapping[str, Iterable[str]],
        fingerprint: _Fingerprint,
        checkpoint: Path | None,
    ) -> None:
        self._source, self._feeds, self._fingerprint, self._checkpoint = source, feeds, fingerprint, checkpoint
        model = digest(source.document)
        self.statistics = Statistics.of(model, wanted)
        self.seen = dict.fromkeys(self.statistics.observers, 0)
        self._inputs = {i.name for i in source.document.proto.graph.input}
        self._skip_unobservable()
        self._saved = time.monotonic()
        self.compiled = False
        self._watched: list[Watch] = []
        self._torn = False  # something was seen that is not counted in ``seen`` yet: nothing to save
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def _skip_unobservable(self) -> None:
        """Leave out what no session can show, or what holds no floats."""
        graph = self._source.document.proto.graph
        constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        constants |= {o for n in graph.node if n.op_type == "Constant" for o in n.output}
        computed = {o for n in graph.node for o in n.output if o}
        inner = runtime.subgraph_tensors(self._source.document.proto)
        for name in list(self.seen):
            if name in constants:
                self.skip(name, "is a constant")
            elif name in inner and name not in computed:
                self.skip(
                    name, f"is computed in a subgraph of {inner[name]}: only tensors of the main graph can be shown"
                )
            elif name not in computed and name not in self._inputs:
                raise StatisticsError(f"the model has no tensor {name!r}{nearest(name, [*self._inputs, *computed])}")
        session = self._source.session(runtime.output_addition(self._added()), optimize=False)
        types = {**runtime.outputs_of(session), **{n: t for n, t, _ in runtime.inputs_of(session)}}
        self._bytes = {name: _FLOATS.get(types[name], 0) for name in self.seen}
        for name, size in self._bytes.items():
            if not size:
                self.skip(name, f"is {types[name]}; ranges are for floats")

    def _added(self) -> list[str]:
        """Tensors that are neither inputs nor outputs of the model."""
        shown = self._inputs | {o.name for o in self._source.document.proto.graph.output}
        return [name for name in self.seen if name not in shown]

    def skip(self, tensor: str, reason: str) -> None:
        """Leave a tensor out from now on."""
        self.statistics.skipped[tensor] = reason
        del self.statistics.observers[tensor], self.seen[tensor]

    def groups(self, first: Feed, memory: int) -> list[list[str]]:
        """Tensors that are observed together: those that have seen as many samples, as many as memory holds."""
        sizes = self._sizes(first)
        groups: list[list[str]] = []
        for seen in sorted(set(self.seen.values()), reverse=True):
            room = 0
            for name in (n for n, s in self.seen.items() if s == seen < len(self._feeds)):
                if room < sizes[name] or not groups:
                    groups.append([])
                    room = memory
                groups[-1].append(name)
                room -= sizes[name]
        return groups

    def _sizes(self, first: Feed) -> dict[str, int]:
        """Bytes of each tensor of a sample that leaves the session, from its shape alone: none is kept for this."""
        fetched = [name for i, name in enumerate(self.seen) if self._watch(name, i).is_fetched]
        inner = [name for name in fetched if name not in self._inputs]
        if not inner:
            return dict.fromkeys(self.seen, 0)
        session = self._source.session(runtime.shape_addition(inner))
        found = runtime.run(session, first, [runtime.shape_output(i) for i in range(len(inner))])
        shapes = dict(zip(inner, found.values(), strict=True))
        sizes = {name: prod(map(int, shape)) for name, shape in shapes.items()}
        sizes.update({name: first[name].size for name in fetched if name in self._inputs and name in first})
        return {name: sizes.get(name, 0) * self._bytes[name] for name in self.seen}

    def observe(self, group: Sequence[str], progress: Progress) -> None:
        """Run the samples that a group has not seen."""
        self._watched = [self._watch(name, i) for i, name in enumerate(group)]
        addition = onnx.ModelProto()
        if self.compiled and DOMAIN not in {o.domain for o in self._source.document.proto.opset_import}:
            addition.opset_import.add(domain=DOMAIN, version=1)
        for watch in self._watched:
            watch.extend(addition)
        session = self._source.observing(addition)
        outputs = [output for watch in self._watched for output in watch.outputs(self._inputs)]
        start = self.seen[group[0]]
        try:
            for index, feed in enumerate(islice(self._feeds, start, None), start):
                self._torn = self.compiled  # the library sees tensors while the session runs
                values: dict[str, NDArray[Any]] = {**feed, **runtime.run(session, feed, outputs)}
                for watch in self._watched:
                    self._see(watch, values, index)
                self._torn = False
                progress("calibrating", self._done())
                self._save(_CHECKPOINT_SECONDS)
            self._drain()
        except BaseException:
            self._save(0.0)
            raise

    def _watch(self, name: str, index: int) -> Watch:
        compiled = self.compiled and self._bytes[name] == _FLOATS["tensor(float)"]
        return Watch(
            name, self.statistics.accumulators(name), index, compiled=compiled, shown=name not in self._added()
        )

    def _see(self, watch: Watch, values: Mapping[str, NDArray[Any]], index: int) -> None:
        if watch.name not in self.seen:
            return
        self._torn = True
        try:
            watch.see(values)
        except StatisticsError as error:
            self.skip(watch.name, f"{error} in sample {index}")
        else:
            self.seen[watch.name] = index + 1
        self._torn = self.compiled

    def _drain(self) -> None:
        for watch in self._watched:
            if watch.name in self.seen:
                watch.drain()

    def _done(self) -> float:
        return sum(self.seen.values()) / max(1, len(self.seen) * len(self._feeds))

    def _save(self, after: float) -> None:
        if self._checkpoint is None or self._torn or time.monotonic() - self._saved < after:
            return
        self._drain()
        extra = {"seen": [self.seen[name] for name in self.statistics.observers], "of": self._fingerprint.fields}
        self.statistics.write(self._checkpoint, PARTIAL, extra)
        self._saved = time.monotonic()

    def _resume(self, checkpoint: Path) -> None:
        found, header = Statistics.read(checkpoint, PARTIAL)
        found.check(self.statistics.model, f"the one that {checkpoint} is to be resumed for")
        for what, value in self._fingerprint.fields.items():
            if header["of"].get(what) != value:
                raise StatisticsError(f"{checkpoint}: is of other samples ({what} differ); remove it to start anew")
        names = {t: list(o) for t, o in self.statistics.observers.items() if t not in found.skipped}
        if {t: list(o) for t, o in found.observers.items()} != names:
            raise StatisticsError(f"{checkpoint}: is of other tensors or observers; remove it to start anew")
        self.statistics = found
        self.seen = dict(zip(found.observers, header["seen"], strict=True))

    def finished(self) -> Statistics:
        """The statistics, complete."""
        self.statistics.samples = len(self._feeds)
        self.statistics.sources = [dict(self._feeds.about)]
        return self.statistics
