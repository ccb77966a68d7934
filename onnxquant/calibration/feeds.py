"""Feeds: samples for a model, from arrays, from files, or synthetic ones that follow its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import FeedError, nearest
from onnxquant.graph.io import Document
from onnxquant.graph.sites import How, Site

Feed = dict[str, NDArray[Any]]
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.str_,
}
# Lengths tried in turn for dimensions that the model leaves open, until it runs.
_LENGTHS = (32, 64, 48, 224, 320, 512, 576, 16, 128, 256, 1)


@dataclass(frozen=True)
class Input:
    """One input of a model: its name, ONNX Runtime's type of it, and its shape with names for open dimensions."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """As shown in messages."""
        return f"{self.name} {self.type} {list(self.shape)}"


def read(data: str | Path | Iterable[Mapping[str, Any]], inputs: Sequence[Input], limit: int | None) -> list[Feed]:
    """Samples from data the user gives.

    Args:
        data: a ``.npz``, or a mapping, whose arrays are named after the inputs, samples along the first axis; a folder
            of ``.npz`` files, one sample each; or an iterable of ``{input name: array}``, one sample each.
        inputs: what the model takes.
        limit: at most so many samples; None: all.

    Raises:
        FeedError: unreadable, empty, or not what the model takes; the message shows what it expects.
    """
    if isinstance(data, (str, Path)):
        feeds = _read_path(Path(data), inputs)
    elif isinstance(data, Mapping):
        feeds = _split({name: np.asarray(array) for name, array in data.items()}, inputs, "data")
    else:
        feeds = _listed(data, inputs)
    if not feeds:
        raise FeedError(f"{_source(data)}: holds no samples; {_expected(inputs)}")
    feeds = feeds[:limit]
    return [_checked(feed, inputs, f"{_source(data)}, sample {i}") for i, feed in enumerate(feeds)]


def _source(data: object) -> str:
    return str(data) if isinstance(data, (str, Path)) else "data"


def _expected(inputs: Sequence[Input]) -> str:
    return "the model takes " + ", ".join(map(str, inputs))


def _read_path(path: Path, inputs: Sequence[Input]) -> list[Feed]:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise FeedError(f"{path}: no .npz files in this folder; {_expected(inputs)}")
        return [_load(f) for f in files]
    if path.suffix != ".npz":
        raise FeedError(f"{path}: expected a .npz file or a folder of them; {_expected(inputs)}")
    return _split(_load(path), inputs, str(path))


def _listed(data: Iterable[Mapping[str, Any]], inputs: Sequence[Input]) -> list[Feed]:
    try:
        return [dict(feed) for feed in data]
    except (TypeError, ValueError):
        raise FeedError(f"data: expected {{input name: array}} for each sample; {_expected(inputs)}") from None


def _split(arrays: Feed, inputs: Sequence[Input], where: str) -> list[Feed]:
    """Samples of arrays that hold them along their first axis."""
    counts = {name: len(a) for name, a in arrays.items() if a.ndim}
    if len(set(counts.values())) > 1:
        raise FeedError(f"{where}: arrays differ in their number of samples: {counts}; {_expected(inputs)}")
    ranks = {i.name: len(i.shape) for i in inputs}
    count = next(iter(counts.values()), 1)
    return [{n: _sample(a, i, ranks.get(n, a.ndim)) for n, a in arrays.items()} for i in range(count)]


def _sample(array: NDArray[Any], index: int, rank: int) -> NDArray[Any]:
    """One sample: the first axis is kept, with length 1, where the input has an axis for it."""
    if array.ndim == 0:
        return array
    return array[index] if array.ndim == rank + 1 else array[index : index + 1]


def _load(path: Path) -> Feed:
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise FeedError(f"{path}: cannot be read as .npz: {error}") from None
    except Exception as error:  # zipfile.BadZipFile and friends
        raise FeedError(f"{path}: cannot be read as .npz: {error}") from None


def _checked(feed: Mapping[str, Any], inputs: Sequence[Input], where: str) -> Feed:
    known = [i.name for i in inputs]
    for name in feed:
        if name not in known:
            raise FeedError(f"{where}: the model has no input {name!r}{nearest(name, known)}")
    out: Feed = {}
    for spec in inputs:
        if spec.name not in feed:
            raise FeedError(f"{where}: input {spec.name!r} is missing; {_expected(inputs)}")
        array = np.asarray(feed[spec.name])
        wanted = _DTYPES.get(spec.type)
        if wanted is not None and array.dtype != wanted and wanted is not np.str_:
            # Same kind or a widening is what the user meant; floats for token ids are a mistake.
            if array.dtype.kind != np.dtype(wanted).kind and not (
                array.dtype.kind in "iub" and np.dtype(wanted).kind in "iuf"
            ):
                raise FeedError(f"{where}: input {spec.name!r} is {array.dtype}, expected {spec.type}")
            with np.errstate(over="ignore"):  # what becomes infinite is refused below
                array = array.astype(wanted)
        fits = len(array.shape) == len(spec.shape) and all(
            not isinstance(d, int) or d < 1 or d == have for d, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise FeedError(f"{where}: input {spec.name!r} has shape {list(array.shape)}, expected {list(spec.shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FeedError(f"{where}: input {spec.name!r} holds NaN or infinity")
        out[spec.name] = array
    return out


@dataclass(frozen=True)
class Guess:
    """How open dimensions are filled: the given names first, batches with 1, then by these lengths.

    Attributes:
        dims: lengths of named dimensions.
        length: length of an open last axis.
        inner: length of other open axes that are not the first.
        zeros: integers are 0, which every index accepts.
    """

    dims: Mapping[str, int]
    length: int
    inner: int
    zeros: bool = False

    def shape(self, spec: Input) -> list[int]:
        """A shape for an input."""
        last = len(spec.shape) - 1
        return [self._length(dim, axis, last) for axis, dim in enumerate(spec.shape)]

    def _length(self, dim: int | str | None, axis: int, last: int) -> int:
        if isinstance(dim, int) and dim > 0:
            return dim
        if isinstance(dim, str) and dim in self.dims:
            return self.dims[dim]
        named_batch = isinstance(dim, str) and (dim.lower() in ("n", "b") or "batch" in dim.lower())
        if named_batch or (axis == 0 and last > 0):
            return 1
        return self.length if axis == last else self.inner


def guesses(inputs: Sequence[Input], dims: Mapping[str, int]) -> list[Guess]:
    """Guesses worth trying in turn; a single one when nothing is open."""
    is_open = any(_open(d) and d not in dims for i in inputs for d in i.shape[1:])
    if not is_open:
        return [Guess(dims, 1, 1), Guess(dims, 1, 1, zeros=True)]
    square = [Guess(dims, n, n) for n in _LENGTHS]
    return [*square, *(Guess(dims, n, 1) for n in _LENGTHS), *(Guess(dims, n, n, zeros=True) for n in _LENGTHS)]


def _open(dim: int | str | None) -> bool:
    return not isinstance(dim, int) or dim < 1


def synthetic(
    inputs: Sequence[Input], vocabulary: Mapping[str, int], guess: Guess, count: int, seed: int
) -> list[Feed]:
    """Seeded samples that follow the inputs' types and shapes.

    Args:
        inputs: what the model takes.
        vocabulary: for index inputs, how many rows their table has.
        guess: lengths of open dimensions.
        count: number of samples.
        seed: same seed, same samples.

    Raises:
        FeedError: an input that is no tensor.
    """
    generator = np.random.default_rng(seed)
    tables = dict.fromkeys((i.name for i in inputs), 1) if guess.zeros else vocabulary
    return [{i.name: _values(i, guess.shape(i), tables, generator) for i in inputs} for _ in range(count)]


def _values(
    spec: Input, shape: list[int], vocabulary: Mapping[str, int], generator: np.random.Generator
) -> NDArray[Any]:
    dtype = _DTYPES.get(spec.type)
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
    """For each integer input that indexes constant tables, the rows of the smallest."""
    reach = {i.name: {i.name} for i in document.proto.graph.input}
    for node in document.proto.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten") and node.input:
            for names in reach.values():
                if node.input[0] in names:
                    names.add(node.output[0])
    tables: dict[str, int] = {}
    lookups = [(u.node.input[1], s.rows) for s in sites for u in s.uses if u.how is How.LOOKUP]
    for index, rows in lookups:
        for name, names in reach.items():
            if index in names:
                tables[name] = min(rows, tables.get(name, rows))
    return tables
