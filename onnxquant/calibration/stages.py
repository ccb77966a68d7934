"""A model cut into stages, which run over all samples one after the other; what lies between two of them is in files.

A stage computes some tensors that are asked of the model, and those that later stages begin with. Only its own nodes and
weights are in memory while it runs, and no node runs twice, however many stages there are. Nodes that no goal depends
on, such as the head of a language model, never run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feeds
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import names_read, replace_field, subgraphs
from onnxquant.system.files import atomically

# Kinds of numpy's element types that files hold.
_STORED = "biuf"
_INDEX = "tensors.json"


@dataclass(frozen=True)
class Stage:
    """A part of a model.

    Attributes:
        goals: the tensors that it is to show.
        end: tensors of this stage and those before it that later ones begin with.
    """

    goals: Sequence[str]
    end: Sequence[str]


@dataclass(frozen=True)
class Closure:
    """The nodes and tensors that some tensors are computed from.

    Attributes:
        nodes: places of nodes in the main graph, in their order.
        sources: tensors that are there already, in the order of their names.
    """

    nodes: list[int]
    sources: list[str]


class StagedModel:
    """A model that runs stage by stage.

    Args:
        document: the model.
        goals: the tensors that each stage is to show; none of them is an input.
        feeds: samples.
        count: number of samples that run.
        folder: folder for what lies between stages; what an earlier run left there is taken.
        threads: number of threads of a session; None: ONNX Runtime's choice.
    """

    def __init__(
        self,
        document: Document,
        goals: Sequence[Sequence[str]],
        feeds: Feeds,
        *,
        count: int,
        folder: Path,
        threads: int | None = None,
    ) -> None:
        self._document, self._feeds, self._count = document, feeds, count
        self._threads, self._folder = threads, folder
        self._nodes = document.proto.graph.node
        self._makers = {name: place for place, node in enumerate(self._nodes) for name in node.output if name}
        self._stages = list(self._planned(goals))
        self._handovers: dict[int, Handover] = {}  # of stages that ran, here or in an earlier run
        self._unstored = set[int]()  # stages that ran, and whose tensors no file holds

    def run(self, number: int, see: Callable[[int, Mapping[str, Any]], None]) -> None:
        """Run a stage on all samples, and those before it that have not run.

        Args:
            number: number of the stage.
            see: function of the number of a sample, and of its inputs and the goals by name.

        Raises:
            ModelError: onnxruntime does not run it.
        """
        last = next((n for n in range(number - 1, -1, -1) if n in self._handovers or self._find(n)), -1)
        for earlier in sorted({*range(last + 1, number)} - self._unstored):
            self._run(earlier, lambda sample, values: None)
        self._run(number, see)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._handovers.clear()

    def _planned(self, goals: Sequence[Sequence[str]]) -> Iterator[Stage]:
        done: set[str] = set()
        for number, names in enumerate(goals):
            done.update(o for place in self._closure(names, done).nodes for o in self._nodes[place].output if o)
            later = [name for others in goals[number + 1 :] for name in others]
            yield Stage(names, self._closure(later, done).sources)

    def _closure(self, goals: Iterable[str], there: Container[str]) -> Closure:
        """The nodes that tensors are computed by, as far back as tensors are there."""
        places, sources = set[int](), set[str]()
        left = list(goals)
        while left:
            name = left.pop()
            if name in there:
                sources.add(name)
            elif (place := self._makers.get(name)) is not None and place not in places:
                places.add(place)
                left += self._read(place)
        return Closure(sorted(places), sorted(sources))

    def _read(self, place: int) -> Iterator[str]:
        """Names that a node reads, those of graphs inside it included."""
        node = self._nodes[place]
        yield from node.input
        for inner in subgraphs(node):
            yield from names_read(inner)

    def _handover(self, number: int) -> Handover:
        return Handover(self._folder / f"stage-{number}", self._stages[number].end)

    def _find(self, number: int) -> bool:
        """Whether an earlier run left what lies behind a stage."""
        handover = self._handover(number)
        if is_there := handover.find():
            self._handovers[number] = handover
        return is_there

    def _run(self, number: int, see: Callable[[int, Mapping[str, Any]], None]) -> None:
        """Run a stage from the last tensors before it that are in files."""
        stage, end = self._stages[number], self._handover(number)
        begin = next((self._handovers[n] for n in range(number - 1, -1, -1) if n in self._handovers), None)
        end.remove()
        closure = self._closure([*stage.goals, *stage.end], begin.names if begin else ())
        results = {name for place in closure.nodes for name in self._nodes[place].output}
        outputs = [name for name in dict.fromkeys([*stage.goals, *stage.end]) if name in results]
        with self._running(closure, begin, outputs) as computed:
            for sample, feed in zip(range(self._count), self._feeds, strict=False):
                there = {**feed, **(begin.read(sample) if begin else {})}
                values = {**there, **computed(there)}
                see(sample, values)
                end.add(sample, values)
        if end.is_whole:
            end.finish()
            self._handovers[number] = end
        else:
            end.remove()
            self._unstored.add(number)
        # The one before is needed again if the run ends before all that this stage showed is used.
        for old in [n for n in self._handovers if n < number - 1]:
            if number - 1 in self._handovers:
                self._handovers.pop(old).remove()

    @contextmanager
    def _running(
        self, closure: Closure, begin: Handover | None, outputs: Sequence[str]
    ) -> Iterator[Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """A function that computes tensors from those that are there; a session on nothing else is open meanwhile."""
        if not outputs:
            yield lambda there: {}
            return
        part = self._part(closure, begin)
        taken = {value.name for value in part.proto.graph.input}
        with runtime.session_of(part, outputs, threads=self._threads) as session:
            yield lambda there: runtime.run(session, {n: a for n, a in there.items() if n in taken}, outputs)

    def _part(self, closure: Closure, begin: Handover | None) -> Document:
        """Some nodes as a model of its own, without outputs."""
        part = self._document.copy()
        graph = part.proto.graph
        nodes = [self._nodes[place] for place in closure.nodes]
        read = {name for place in closure.nodes for name in self._read(place)}
        results = {name for node in nodes for name in node.output}
        inputs = [value for value in graph.input if value.name in read]
        replace_field(graph.node, nodes)
        replace_field(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in read])
        replace_field(graph.sparse_initializer, [t for t in graph.sparse_initializer if t.values.name in read])
        replace_field(graph.value_info, [value for value in graph.value_info if value.name in results])
        replace_field(graph.input, [*inputs, *(begin.declared(closure.sources) if begin else [])])
        del graph.output[:]
        return part


@dataclass
class Handover:
    """Tensors that a stage leaves for later ones, of every sample: files in a folder.

    Attributes:
        folder: the folder.
        names: the tensors.
        kinds: element type of each.
        shapes: shape of each; an axis that differs between samples is None, and so is a shape whose number of axes does.
        is_whole: whether every tensor could be stored.
    """

    folder: Path
    names: Sequence[str]
    kinds: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, list[int | None] | None] = field(default_factory=dict)
    is_whole: bool = True

    def add(self, sample: int, values: Mapping[str, Any]) -> None:
        """Store the tensors of a sample; texts and sequences cannot be stored."""
        if self.names:
            self.folder.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            value = values[name]
            if not isinstance(value, np.ndarray) or value.dtype.kind not in _STORED:
                self.is_whole = False
                return
            np.save(self._file(sample, name), value)
            self.kinds[name] = value.dtype.name
            self.shapes[name] = _common(self.shapes.get(name, list(value.shape)), value.shape)

    def read(self, sample: int) -> dict[str, NDArray[Any]]:
        """The tensors of a sample."""
        return {name: np.load(self._file(sample, name)) for name in self.names}

    def declared(self, names: Iterable[str]) -> list[onnx.ValueInfoProto]:
        """Some of the tensors as inputs of a model."""
        kind, info = onnx.helper.np_dtype_to_tensor_dtype, onnx.helper.make_tensor_value_info
        return [info(name, kind(np.dtype(self.kinds[name])), self.shapes[name]) for name in names]

    def finish(self) -> None:
        """Say in a file that all samples are there."""
        if not self.names:
            return
        with atomically(self.folder / _INDEX) as file:
            file.write(json.dumps({"kinds": self.kinds, "shapes": self.shapes}).encode())

    def find(self) -> bool:
        """Whether an earlier run left all of it; it is then read from there."""
        if not self.names:
            return True
        try:
            index = json.loads((self.folder / _INDEX).read_text())
        except (OSError, ValueError):
            return False
        self.kinds, self.shapes = index["kinds"], index["shapes"]
        return self.kinds.keys() == set(self.names)  # a run of other weights has other stages

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, sample: int, name: str) -> Path:
        return self.folder / f"{sample}-{self.names.index(name)}.npy"


def _common(shape: list[int | None] | None, other: Sequence[int]) -> list[int | None] | None:
    """The axes in which two shapes are equal."""
    if shape is None or len(shape) != len(other):
        return None
    return [size if size == another else None for size, another in zip(shape, other, strict=True)]
