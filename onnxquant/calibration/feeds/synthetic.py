"""Seeded synthetic feeds that follow a model's inputs: their types, ranges and named dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.base import DTYPES, Feed, Input, SampleOrigin
from onnxquant.calibration.feeds.caches import Cache, caches, holds_positions
from onnxquant.calibration.feeds.labels import Label
from onnxquant.errors import FeedError
from onnxquant.graph.io import Document
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import Site

# Lengths tried in turn for dimensions that the model leaves open, until it runs.
_LENGTHS = (32, 64, 48, 224, 320, 512, 576, 16, 128, 256, 1)
# Lengths of an open last axis alone: sound in samples per second.
_LENGTHS_OF_SOUND = (1600, 4000, 16000, 32000, 64000)


@dataclass(frozen=True)
class Guess:
    """Lengths for the open dimensions of a model; the first axis of a batch has length 1.

    Attributes:
        dims: lengths of named dimensions.
        length: length of an open last axis.
        inner: length of other open axes that are not the first.
        zeros: whether integers are all 0, an index that every table has.
        cache: the cache of a decoder; None: the model has none.
    """

    dims: Mapping[str, int]
    length: int
    inner: int
    zeros: bool = False
    cache: Cache | None = None

    def times(self, factor: int) -> Guess:
        """The guess with open lengths that are so many times as long."""
        return replace(self, length=self.length * factor, inner=self.inner * factor if self.inner > 1 else 1)

    def step(self) -> Guess | None:
        """The guess for one token after others; None where the model has no cache, or its lengths are not open."""
        cache = self.cache.filled() if self.cache else None
        return None if cache is None or self.length == 1 else replace(self, length=1, inner=1, cache=cache)

    def shape(self, spec: Input) -> list[int]:
        """A shape for an input."""
        return [self._length(spec, axis) for axis in range(len(spec.shape))]

    def _length(self, spec: Input, axis: int) -> int:
        dim, last = spec.shape[axis], len(spec.shape) - 1
        if isinstance(dim, int) and dim > 0:
            return dim
        if isinstance(dim, str) and dim in self.dims:
            return self.dims[dim]
        cached = self.cache.length(spec.name, axis, self.length) if self.cache else None
        if cached is not None:
            return cached
        named_batch = isinstance(dim, str) and (dim.lower() in ("n", "b") or "batch" in dim.lower())
        if named_batch or (axis == 0 and last > 0):
            return 1
        return self.length if axis == last else self.inner


def guesses(inputs: Sequence[Input], dims: Mapping[str, int]) -> list[Guess]:
    """Guesses to try in turn: one with values and one with zeros where nothing is open."""
    is_open = any(_open(d) and d not in dims for i in inputs for d in i.shape[1:])
    cached = caches(inputs, dims)
    if not is_open:
        return [Guess(dims, 1, 1, cache=c) for c in (*cached, None)] + [Guess(dims, 1, 1, zeros=True)]
    decoders = [Guess(dims, n, n, cache=c) for n in _LENGTHS for c in cached]
    square = [Guess(dims, n, n) for n in _LENGTHS]
    lines = [Guess(dims, n, 1) for n in (*_LENGTHS, *_LENGTHS_OF_SOUND)]
    return [*decoders, *square, *lines, *(Guess(dims, n, n, zeros=True) for n in _LENGTHS)]


def _open(dim: int | str | None) -> bool:
    return not isinstance(dim, int) or dim < 1


@dataclass
class Synthetic:
    """Seeded samples that follow the inputs' types and shapes, made one at a time.

    Attributes:
        inputs: inputs of the model.
        vocabulary: number of rows of the table, by index input.
        guess: lengths of open dimensions.
        count: number of samples.
        seed: seed; the same seed makes the same samples.
        origin: the origin, with the shapes.
    """

    inputs: Sequence[Input]
    vocabulary: Mapping[str, int]
    guess: Guess
    count: int
    seed: int
    origin: SampleOrigin = field(init=False)

    def __post_init__(self) -> None:
        shapes = {i.name: tuple(self.guess.shape(i)) for i in self.inputs}
        self.origin = SampleOrigin(source="synthetic", samples=self.count, seed=self.seed, shapes=shapes)

    @property
    def files(self) -> Sequence[PurePath]:
        """None."""
        return ()

    @property
    def classes(self) -> Sequence[str]:
        """None."""
        return ()

    def labelled(self) -> Iterator[tuple[Feed, list[Label] | None]]:
        """The samples, without labels."""
        return ((feed, None) for feed in self)

    @property
    def groups(self) -> Sequence[str]:
        """None is known."""
        return ()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Feed]:
        generator = np.random.default_rng(self.seed)
        tables = dict.fromkeys((i.name for i in self.inputs), 1) if self.guess.zeros else self.vocabulary
        for _ in range(self.count):
            yield {i.name: self._values(i, tables, generator) for i in self.inputs}

    def _values(self, spec: Input, tables: Mapping[str, int], generator: np.random.Generator) -> NDArray[Any]:
        """Values of an input: numbers of tokens and positions as the cache has them, others at random."""
        shape, cache, dtype = self.guess.shape(spec), self.guess.cache, DTYPES.get(spec.type)
        is_integer = dtype is not None and np.dtype(dtype).kind in "iu"
        if is_integer and holds_positions(spec) and not self.guess.zeros:
            first = cache.past if cache else 0
            positions = np.arange(first, first + shape[-1]) % tables.get(spec.name, np.iinfo(np.int32).max)
            return np.broadcast_to(positions.astype(dtype), shape).copy()
        count = cache.count(spec, self.guess.length) if cache and is_integer else None
        if count is not None:
            return np.full(shape, count, dtype)
        return _values(spec, shape, tables, generator)


def _values(
    spec: Input, shape: list[int], vocabulary: Mapping[str, int], generator: np.random.Generator
) -> NDArray[Any]:
    dtype = DTYPES.get(spec.type)
    if dtype is None:
        raise FeedError(f"input {spec.name!r} is {spec.type}: no synthetic values for it; give data")
    if dtype is np.str_:
        return np.full(shape, "a text")
    if dtype is np.bool_:
        return np.ones(shape, np.bool_)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if "mask" in spec.name.lower():
        return np.ones(shape, dtype)
    # Sampling rates and other scalar settings are not random numbers.
    if spec.name.lower() in ("sr", "sample_rate", "sampling_rate"):
        return np.full(shape, 16000, dtype)
    high = vocabulary.get(spec.name, 2)
    return generator.integers(0, max(high, 1), shape).astype(dtype)


def vocabulary(document: Document, sites: Sequence[Site]) -> dict[str, int]:
    """Number of rows of the smallest constant table that each integer input indexes."""
    reach = {i.name: {i.name} for i in document.proto.graph.input}
    for node in document.proto.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten") and node.input:
            for names in reach.values():
                if node.input[0] in names:
                    names.add(node.output[0])
    tables: dict[str, int] = {}
    lookups = [(u.node.input[1], s.rows) for s in sites for u in s.uses if u.kind is UseKind.LOOKUP]
    for index, rows in lookups:
        for name, names in reach.items():
            if index in names:
                tables[name] = min(rows, tables.get(name, rows))
    return tables
