"""Feeds: the protocol of samples, and the check that every sample passes before a model sees it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.groups import groups_of_files
from onnxquant.calibration.feeds.labels import LABEL, Label, LabelFile, labels_in
from onnxquant.errors import FeedError, nearest
from onnxquant.json_data import OPTIONAL, JsonValue

Feed = dict[str, NDArray[Any]]
# A sample as its source has it, before the check.
Raw = Mapping[str, Any]
DTYPES: dict[str, type[np.generic]] = {
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


@dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        name: the model's name for it.
        type: ONNX Runtime's name of its type, such as ``tensor(float)``.
        shape: a number, a name or None for each axis.
        default: whether the model has a value for it, so that a sample may leave it out.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]
    default: bool = False

    def __str__(self) -> str:
        """The input in messages."""
        return f"{self.name} {self.type} {list(self.shape)}" + (" (optional)" if self.optional else "")

    @property
    def optional(self) -> bool:
        """Whether a sample may leave it out."""
        return self.default or self.element != self.type

    @property
    def element(self) -> str:
        """Its type; for an optional one the type of its value."""
        return self.type[len("optional(") : -1] if self.type.startswith("optional(") else self.type


@dataclass(frozen=True)
class Assumption:
    """The part of a preparation that nothing tells for certain.

    Attributes:
        what: inputs that the model is taken to expect.
        option: the option that confirms it.
        is_guess: whether some fact speaks for it.
    """

    what: str
    option: str
    is_guess: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleOrigin:
    """The origin of samples, for reports and files of statistics.

    Attributes:
        source: the file, the folder, the function or ``data``; ``synthetic`` for synthetic samples.
        samples: number of samples.
        kind: ``images`` or ``text``; None: arrays.
        preprocess: steps that made inputs of images.
        tokenizer: file of the tokenizer.
        assumed: settings that followed from the model or from defaults.
        reason: the origin of steps that were not given, in words.
        assumption: part of the preparation that the user has to confirm; None: there is none.
        remarks: differences from the samples that the file was made with.
        seed: seed of synthetic samples; None: the samples are real ones.
        shapes: shapes of synthetic samples, by input.
        files: files of the samples, where each has one.
        apart: whether nothing was made from their sources; None: nothing was made from samples.
    """

    source: str = ""
    samples: int = 0
    kind: str | None = field(default=None, metadata=OPTIONAL)
    tokenizer: str | None = field(default=None, metadata=OPTIONAL)
    preprocess: Mapping[str, JsonValue] | None = field(default=None, metadata=OPTIONAL)
    assumed: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    reason: str | None = field(default=None, metadata=OPTIONAL)
    assumption: Assumption | None = field(default=None, metadata=OPTIONAL)
    remarks: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    seed: int | None = field(default=None, metadata=OPTIONAL)
    shapes: Mapping[str, tuple[int, ...]] | None = field(default=None, metadata=OPTIONAL)
    files: tuple[str, ...] | None = field(default=None, metadata=OPTIONAL)
    apart: bool | None = field(default=None, metadata=OPTIONAL)

    @property
    def is_synthetic(self) -> bool:
        """Whether the samples are synthetic."""
        return self.seed is not None


class Feeds(Protocol):
    """Samples, read one at a time; every iteration gives the same ones.

    Attributes:
        origin: the origin of the samples.
    """

    origin: SampleOrigin

    @property
    def files(self) -> Sequence[PurePath]:
        """The file of each sample; empty where samples have none of their own."""
        ...

    @property
    def groups(self) -> Sequence[str]:
        """The source of each sample, whose samples may be alike; empty where no source is known."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """Names of the folders of classes, sorted; empty where there are none."""
        ...

    def labelled(self) -> Iterator[tuple[Feed, list[Label] | None]]:
        """Samples with their labels, one for each sample of a batch; None where there are none."""
        ...

    def __iter__(self) -> Iterator[Feed]: ...

    def __len__(self) -> int: ...


class Source(Protocol):
    """A reader of raw samples, each with its place for messages; it can be iterated over any number of times.

    Labels of a sample stand among its arrays, under the key ``LABEL``.

    Attributes:
        origin: the origin of the samples, without ``source`` and ``samples``.
        classes: names of the folders of classes, sorted; empty where there are none.
    """

    origin: SampleOrigin
    classes: Sequence[str]

    @property
    def files(self) -> Sequence[PurePath]:
        """The file of each sample; empty where samples have none of their own."""
        ...

    def __iter__(self) -> Iterator[tuple[str, Raw]]: ...

    def __len__(self) -> int: ...


class Checked:
    """The samples of a source, each checked and converted to the model's types when it is read.

    Args:
        name: name of the source.
        source: the source.
        inputs: inputs of the model.
        limit: largest number of samples; None: all.
        are_classes: whether the folders of files are classes of the model; else each is a source by itself.

    Attributes:
        labels: labels from a file, which come before those of the source.
    """

    def __init__(
        self, name: str, source: Source, inputs: Sequence[Input], limit: int | None, *, are_classes: bool = False
    ) -> None:
        self.labels: LabelFile | None = None
        self._are_classes = are_classes
        self._source = source
        self._inputs = inputs
        self._count = len(source) if limit is None else min(limit, len(source))
        self.origin = replace(source.origin, source=name, samples=self._count)

    @property
    def files(self) -> Sequence[PurePath]:
        """The file of each sample."""
        return self._source.files[: self._count]

    @property
    def groups(self) -> Sequence[str]:
        """The source of each sample, by the name of its file."""
        return groups_of_files(self.files, are_classes=self._are_classes)

    @property
    def classes(self) -> Sequence[str]:
        """Names of the folders of classes."""
        return self._source.classes

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Feed, list[Label] | None]]:
        """Samples with their labels."""
        count = 0
        for where, raw in islice(iter(self._source), self._count):
            count += 1
            own = raw.get(LABEL)
            arrays = {k: v for k, v in raw.items() if k != LABEL}
            try:
                feed = check(arrays, self._inputs, where)
            except FeedError as error:
                raise FeedError(f"{error}; found {contents(arrays)}", comparison(arrays, self._inputs)) from None
            yield feed, self._labels(count - 1, feed, None if own is None else labels_in(own))
        if count < self._count:
            raise FeedError(f"{self.origin.source}: gave {count} samples, expected {self._count} as the first time")

    def _labels(self, place: int, feed: Feed, own: list[Label] | None) -> list[Label] | None:
        """The labels of a sample: those of the file, or its own."""
        if self.labels is None:
            return own
        size = batch_size(self._inputs)
        lengths = {len(a) for n, a in feed.items() if np.ndim(a) > 1}
        count = len(own or ()) or (size if size > 1 else next(iter(lengths)) if len(lengths) == 1 else 1)
        file = self.files[place] if self.files else None
        return self.labels.of(place, count, file, own or ())


class Chosen:
    """Some of the samples of other feeds.

    Args:
        feeds: the other feeds.
        places: positions of the chosen samples.
    """

    def __init__(self, feeds: Feeds, places: Container[int]) -> None:
        self._feeds, self._places = feeds, places
        self._count = sum(i in places for i in range(len(feeds)))
        self.origin = replace(feeds.origin, samples=self._count)

    @property
    def files(self) -> Sequence[PurePath]:
        """The file of each chosen sample."""
        return [file for i, file in enumerate(self._feeds.files) if i in self._places]

    @property
    def groups(self) -> Sequence[str]:
        """The source of each chosen sample."""
        return [group for i, group in enumerate(self._feeds.groups) if i in self._places]

    @property
    def classes(self) -> Sequence[str]:
        """Names of the folders of classes."""
        return self._feeds.classes

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Feed]:
        return (feed for feed, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Feed, list[Label] | None]]:
        """The chosen samples with their labels."""
        remaining = self._count
        for i, sample in enumerate(self._feeds.labelled()):
            if i in self._places:
                yield sample
                remaining -= 1
            if not remaining:
                return


def batch_size(inputs: Sequence[Input]) -> int:
    """The fixed number of samples that a model takes at once; 1 where its inputs do not agree about it.

    >>> batch_size([Input("x", "tensor(float)", (8, 3)), Input("rate", "tensor(int64)", ())])
    8
    """
    sizes = {spec.shape[0] for spec in inputs if len(spec.shape) > 1}
    size = next(iter(sizes)) if len(sizes) == 1 else 1
    return size if isinstance(size, int) and size > 1 else 1


def expected(inputs: Sequence[Input]) -> str:
    """The inputs of a model, for messages."""
    return "the model takes " + ", ".join(map(str, inputs))


def contents(raw: Raw) -> str:
    """The arrays of a sample, for messages."""
    return ", ".join(f"{name} {_kind_of(value)}" for name, value in raw.items()) or "nothing"


def _kind_of(value: object) -> str:
    """Type and shape of a value."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return type(value).__name__
    return f"{array.dtype} {list(array.shape)}"


def comparison(raw: Raw, inputs: Sequence[Input]) -> list[str]:
    """A table of the inputs of a model beside the arrays of a sample."""
    names = [*(spec.name for spec in inputs), *(name for name in raw if name not in {s.name for s in inputs})]
    takes = {spec.name: f"{spec.type} {list(spec.shape)}" + " (optional)" * spec.optional for spec in inputs}
    rows = [("input", "the model takes", "the sample has")]
    rows += [(n, takes.get(n, "-"), _kind_of(raw[n]) if n in raw else "-") for n in names]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]


def check(feed: Raw, inputs: Sequence[Input], where: str) -> Feed:
    """A sample with the types that a model takes.

    Args:
        feed: the raw sample.
        inputs: inputs of the model.
        where: place of the sample, for messages.

    Raises:
        FeedError: a name, type, shape or value that does not fit.
    """
    known = [i.name for i in inputs]
    for name in feed:
        if name not in known:
            raise FeedError(
                f"{where}: the model has no input {name!r}{nearest(str(name), known)}; leave it out, or name it after the "
                f"input"
            )
    out: Feed = {}
    for spec in inputs:
        if spec.name in feed:
            out[spec.name] = _checked(feed[spec.name], spec, where)
        elif not spec.optional:
            raise FeedError(f"{where}: input {spec.name!r} is missing; {expected(inputs)}")
    return out


def _checked(value: object, spec: Input, where: str) -> Any:  # noqa: ANN401 - sequences are lists for onnxruntime
    if spec.element.startswith("seq("):
        if not isinstance(value, (list, tuple)):
            raise FeedError(f"{where}: input {spec.name!r} is {type(value).__name__}, expected a list for {spec.type}")
        return list(value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise FeedError(f"{where}: input {spec.name!r} is no array: {error}") from None
    target = DTYPES.get(spec.element)
    if target is not None:
        array = _text(array, spec, where) if target is np.str_ else _cast(array, target, spec, where)
    fits = len(array.shape) == len(spec.shape) and all(
        not isinstance(d, int) or d < 1 or d == have for d, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise FeedError(f"{where}: input {spec.name!r} has shape {list(array.shape)}, expected {list(spec.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FeedError(f"{where}: input {spec.name!r} holds NaN or infinity")
    return array


def _text(array: NDArray[Any], spec: Input, where: str) -> NDArray[Any]:
    """Texts as ONNX Runtime takes them: an array of str."""
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind == "O" and all(isinstance(text, str) for text in array.flat):
        return array
    raise FeedError(f"{where}: input {spec.name!r} is {array.dtype}, expected {spec.type}")


def _cast(array: NDArray[Any], target: type[np.generic], spec: Input, where: str) -> NDArray[Any]:
    """The same values in another type. Another kind is refused unless it is wider: floats for ids are a mistake."""
    dtype = np.dtype(target)
    if array.dtype == dtype:
        return array
    if array.dtype.kind != dtype.kind and not (array.dtype.kind in "iub" and dtype.kind in "iuf"):
        raise FeedError(f"{where}: input {spec.name!r} is {array.dtype}, expected {spec.type}")
    with np.errstate(over="ignore"):  # values that become infinite are refused later
        cast = array.astype(dtype)
    if (dtype.kind in "iu" and not np.array_equal(cast.astype(array.dtype), array)) or _wrapped(array, cast):
        lowest, highest = array.min(), array.max()
        raise FeedError(f"{where}: input {spec.name!r} holds {lowest} to {highest}, which {spec.type} cannot hold")
    return cast


def _wrapped(array: NDArray[Any], cast: NDArray[Any]) -> bool:
    """Whether a sign was lost: -1 comes back from uint64 as -1."""
    if array.dtype.kind not in "iu" or cast.dtype.kind not in "iu":
        return False
    return bool(((array < 0) != (cast < 0)).any())
