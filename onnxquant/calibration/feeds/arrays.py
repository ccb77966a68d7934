"""Samples in arrays: .npz and .npy files, folders of them, and mappings in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.base import Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.labels import LABEL, is_label_name
from onnxquant.errors import FeedError, likeliest, nearest

T = TypeVar("T")
ENDINGS = (".npz", ".npy")
# The length of a local file header of a zip archive before its two parts of variable length, and where they stand.
_HEADER, _LENGTHS_AT = 30, 26
# An archive that holds so many bytes, and so many times as many as it has, is a bomb.
_LARGE, _LARGEST_RATIO = 256 << 20, 100


class Stacked:
    """Arrays that hold samples along their first axis.

    A sample is one entry of that axis. The axis stays, with length 1, where the input has one for it. Where a model takes
    a batch of fixed size, a sample is a whole batch; entries of the last one are repeated where they do not fill it. An array
    of labels, which no input is called like, has an entry for each sample.
    """

    files: Sequence[Path] = ()
    classes: Sequence[str] = ()

    def __init__(self, arrays: Mapping[str, Column], inputs: Sequence[Input], where: str) -> None:
        self._where = where
        specs = {i.name: i for i in inputs}
        labels = next((n for n, c in arrays.items() if n not in specs and is_label_name(n) and c.holds_labels), None)
        columns = {name: column for name, column in arrays.items() if name != labels}
        strangers = _strangers(columns, inputs, where)
        columns = {name: column for name, column in columns.items() if name not in strangers}
        for name, column in columns.items():
            _refuse_other_axes(name, column, specs[name], where)
        self._takes = {name: _taking(column.shape, specs[name]) for name, column in columns.items()}
        self._columns: dict[str, Column] = columns
        if labels is not None:
            largest = max((taking.entries for taking in self._takes.values()), default=1)
            self._columns = {**columns, LABEL: arrays[labels]}
            self._takes[LABEL] = _Taking(largest, drops_axis=False)
        counted = {n: c for n, c in self._columns.items() if not c.is_shared}
        counts = {n: -(-c.shape[0] // self._takes[n].entries) for n, c in counted.items()}
        missing = {n: -c.shape[0] % self._takes[n].entries for n, c in counted.items() if n != LABEL}
        self.origin = replace(_origin(missing), remarks=left_out(strangers))
        if len(set(counts.values())) > 1:
            raise FeedError(
                f"{where}: arrays differ in their number of samples: {counts}; inputs without an axis for samples need one "
                f"more in front; {expected(inputs)}"
            )
        self._count = next(iter(counts.values()), 1)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        with ExitStack() as stack:
            entries = {n: c.blocks(self._takes[n].entries, stack) for n, c in self._columns.items()}
            for i in range(self._count):
                sample = {n: self._whole(n, next(blocks)) for n, blocks in entries.items()}
                yield (
                    f"{self._where}, sample {i}",
                    {n: a[0] if self._takes[n].drops_axis and a.ndim else a for n, a in sample.items()},
                )

    def _whole(self, name: str, block: NDArray[Any]) -> NDArray[Any]:
        """A block of entries, repeated where they do not fill a batch; labels are not."""
        count = self._takes[name].entries
        if name == LABEL or not block.ndim or len(block) == count:
            return block
        return block.take(range(count), axis=0, mode="wrap")


def strangers_beside(names: Collection[str], inputs: Sequence[Input]) -> list[str] | None:
    """The names that no input has; None where one of them may be meant for an input that is not there.

    Args:
        names: names of arrays.
        inputs: inputs of the model.
    """
    known = [spec.name for spec in inputs]
    strangers = [name for name in names if name not in known]
    absent = [spec for spec in inputs if spec.name not in names]
    optional = [spec.name for spec in absent if spec.optional]
    is_misspelt = any(likeliest(name, optional) for name in strangers)
    return None if is_misspelt or len(optional) < len(absent) else strangers


def left_out(strangers: Sequence[str]) -> tuple[str, ...] | None:
    """The remark on arrays that no input takes; None where there are none."""
    if not strangers:
        return None
    are = "array is" if len(strangers) == 1 else "arrays are"
    return (f"{', '.join(strangers)}: the {are} left out, as the model has no input of that name",)


def _strangers(columns: Mapping[str, Column], inputs: Sequence[Input], where: str) -> list[str]:
    """The arrays that the model has no input for, and that are left out as all of its inputs are there.

    Raises:
        FeedError: an input is missing.
    """
    beside = strangers_beside(columns, inputs)
    if beside is not None:
        return beside
    known = [spec.name for spec in inputs]
    strangers = [name for name in columns if name not in known]
    if not strangers:
        return []
    them = "it" if len(strangers) == 1 else "them"
    near = nearest(strangers[0], known) if len(strangers) == 1 and likeliest(strangers[0], known) else ""
    raise FeedError(
        f"{where}: the model has no input {', '.join(map(repr, strangers))}{near}; found "
        f"{', '.join(f'{name} {column}' for name, column in columns.items())}; {expected(inputs)}: name {them} after "
        f"the input; classes of the samples are an array 'labels'"
    )


def _refuse_other_axes(name: str, column: Column, spec: Input, where: str) -> None:
    """Refuse an array that is no row of samples of its input, whatever lengths its axes have.

    Raises:
        FeedError: it has another number of axes.
    """
    rank = len(spec.shape)
    if len(column.shape) in (rank, rank + 1) or (column.is_shared and not rank) or spec.element.startswith("seq("):
        return
    own = spec.shape[1:]
    is_one = len(column.shape) == rank - 1 and all(
        not isinstance(length, int) or length < 1 or length == have
        for length, have in zip(own, column.shape, strict=True)
    )
    remedy = "the first axis is that of samples"
    if is_one:
        remedy = "it is one sample: give it an axis for samples in front (array[None])"
    samples = ", ".join(map(str, ("samples", *own)))
    raise FeedError(f"{where}: array {name!r} has shape {list(column.shape)}, expected [{samples}]; {remedy}")


class _Taking(NamedTuple):
    """The part of an array that one sample takes.

    Attributes:
        entries: number of entries of the first axis.
        drops_axis: whether the input has no axis for samples.
    """

    entries: int
    drops_axis: bool


def _origin(missing: Mapping[str, int]) -> SampleOrigin:
    """The origin of arrays, the last entries of which may fill no batch."""
    count = max(missing.values(), default=0)
    return SampleOrigin(assumed=(f"{count} samples are repeated to fill a batch",) if count else None)


def _taking(shape: tuple[int, ...], spec: Input) -> _Taking:
    if len(shape) == len(spec.shape) + 1:
        return _Taking(1, drops_axis=True)
    first = spec.shape[0] if spec.shape else 1
    if isinstance(first, int) and 1 < first <= shape[0] and len(shape) == len(spec.shape):
        return _Taking(first, drops_axis=False)
    return _Taking(1, drops_axis=False)


class Column:
    """One array with samples along its first axis, in memory or mapped."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self._dtype: np.dtype[Any] = array.dtype

    def __str__(self) -> str:
        """Type and shape, as messages show them."""
        return f"{self._dtype} {list(self.shape)}"

    @property
    def is_shared(self) -> bool:
        """Whether all samples have the array as it is: a scalar, or the empty cache of a decoder."""
        return not self.shape or (self.shape[0] == 1 and 0 in self.shape)

    @property
    def holds_labels(self) -> bool:
        """Whether the entries may be classes: whole numbers or words, or one of several columns for each."""
        is_many = len(self.shape) == 2 and self.shape[1] > 1
        return len(self.shape) in (1, 2) and self._dtype.kind in ("iubf" if is_many else "iuU")

    def blocks(self, length: int, stack: ExitStack) -> Iterator[NDArray[Any]]:
        """Blocks of consecutive entries; what all samples share is repeated without end.

        Args:
            length: number of entries of a block.
            stack: files that the blocks are read from are closed with it.
        """
        while self.is_shared:
            yield self._array
        for start in range(0, self.shape[0], length):
            yield np.asarray(self._array[start : start + length])


class Streamed(Column):
    """One member of an archive, decompressed entry by entry."""

    def __init__(self, path: Path, member: str) -> None:
        self._path, self._member = path, member
        with ExitStack() as stack:
            _, self.shape, self._fortran, self._dtype = self._open(stack)
        if self._dtype.hasobject:
            raise ValueError(f"{member} holds Python objects")

    def _open(self, stack: ExitStack) -> tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]:
        archive = stack.enter_context(zipfile.ZipFile(self._path))
        file = stack.enter_context(archive.open(self._member))
        return file, *_array_header(file)

    def blocks(self, length: int, stack: ExitStack) -> Iterator[NDArray[Any]]:
        """Blocks of consecutive entries, read from the archive."""
        file, shape, fortran, dtype = self._open(stack)
        if fortran or not shape or 0 in shape:  # no entry of it lies in one piece
            data = self._read(file, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            flat = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
            whole = flat.reshape(shape, order="F" if fortran else "C")
            yield from Column(whole).blocks(length, stack)
            return
        entry = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for start in range(0, shape[0], length):
            count = min(length, shape[0] - start)
            data = self._read(file, entry * count)
            yield np.frombuffer(data, dtype).reshape((count, *shape[1:]))

    def _read(self, file: IO[bytes], nbytes: int) -> bytes:
        """The next bytes of the member.

        Raises:
            FeedError: there are fewer, or they are damaged.
        """
        try:
            data = file.read(nbytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise FeedError(f"{self._path}: cannot be read as .npz: {self._member}: {error}") from None
        if len(data) < nbytes:
            raise FeedError(f"{self._path}: cannot be read as .npz: {self._member} ends early")
        return data


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of the .npy that a file is at."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def stacked(path: Path, inputs: Sequence[Input]) -> Stacked:
    """The samples of one .npz or .npy file, read one at a time."""
    if path.suffix.lower() == ".npy":
        return Stacked({_only(inputs, path).name: Column(_map_npy(path))}, inputs, str(path))
    return Stacked(_readable(path, _columns), inputs, str(path))


def in_memory(arrays: Mapping[str, Any], inputs: Sequence[Input], where: str) -> Stacked:
    """The samples of arrays in memory."""
    return Stacked({str(n): Column(np.asarray(a)) for n, a in arrays.items()}, inputs, where)


def _only(inputs: Sequence[Input], path: Path) -> Input:
    if len(inputs) != 1:
        raise FeedError(f"{path}: a .npy file has one array; {expected(inputs)}: use a .npz with an array for each")
    return inputs[0]


def _readable(path: Path, read: Callable[[Path], T]) -> T:
    """The result of a reader; any failure becomes a FeedError."""
    try:
        return read(path)
    except FeedError:
        raise
    except OSError as error:
        raise FeedError(f"{path}: cannot be read as {path.suffix}: {error.strerror or error}") from None
    except Exception as error:  # zipfile.BadZipFile, zlib.error, ValueError, EOFError: any kind of damage
        raise FeedError(f"{path}: cannot be read as {path.suffix}: {error}") from None


def _members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of an archive.

    Raises:
        ValueError: it is a bomb: a small file of much data.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    if size > max(_LARGE, _LARGEST_RATIO * path.stat().st_size):
        raise ValueError(f"{path.stat().st_size} bytes that stand for {size}; arrays do not compress so well")
    return members


def _columns(path: Path) -> dict[str, Column]:
    """The arrays of a .npz: mapped where they are stored as they are, streamed where they are compressed."""
    out: dict[str, Column] = {}
    members = _members(path)
    for member in members:
        name = member.filename.removesuffix(".npy")
        is_plain = member.compress_type == zipfile.ZIP_STORED
        out[name] = _mapped_member(path, member) if is_plain else Streamed(path, member.filename)
    return out


def _mapped_member(path: Path, member: zipfile.ZipInfo) -> Column:
    with path.open("rb") as file:
        file.seek(member.header_offset + _LENGTHS_AT)
        lengths = file.read(4)
        skipped = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        start = member.header_offset + _HEADER + skipped
        file.seek(start)
        shape, fortran, dtype = _array_header(file)
        offset = file.tell()
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    if nbytes != member.file_size - (offset - start):
        raise ValueError(f"{member.filename} ends early")
    if nbytes == 0:
        return Column(np.empty(shape, dtype))
    order: Any = "F" if fortran else "C"
    return Column(np.memmap(path, dtype, "r", offset, shape or (1,), order).reshape(shape))


def _map_npy(path: Path) -> NDArray[Any]:
    def read(file: Path) -> NDArray[Any]:
        try:
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        except ValueError:  # an empty array cannot be mapped
            return np.asarray(np.load(file, allow_pickle=False))

    return _readable(path, read)


@dataclass
class Folder:
    """A folder with a sample per file. A sample is the input of one run of the model, so it may be a batch.

    ``.npz`` files hold an array per input. ``.npy`` files hold the only input, or are called ``<input>_<anything>.npy``:
    files with the same rest are one sample. An array with one axis less than its input gets a batch axis of 1.
    """

    samples: Sequence[Mapping[str, Path] | Path]
    inputs: Sequence[Input]
    classes: Sequence[str] = ()
    origin: SampleOrigin = field(default_factory=SampleOrigin)

    @property
    def files(self) -> list[Path]:
        """The file of each sample, the first of several."""
        return [files if isinstance(files, Path) else next(iter(files.values())) for files in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        ranks = {i.name: len(i.shape) for i in self.inputs}
        for index, (files, one) in enumerate(zip(self.samples, self.files, strict=True)):
            raw = _whole(files) if isinstance(files, Path) else {n: _map_npy(f) for n, f in files.items()}
            sample = {n: a[None] if a.ndim + 1 == ranks.get(n) else a for n, a in raw.items()}
            if isinstance(files, Path):
                sample = {LABEL if n not in ranks and is_label_name(n) else n: a for n, a in sample.items()}
                strangers = strangers_beside([n for n in sample if n != LABEL], self.inputs) or ()
                sample = {n: a for n, a in sample.items() if n not in strangers}
            yield f"{one}, sample {index}", sample


def _whole(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a .npz."""

    def read(file: Path) -> dict[str, NDArray[Any]]:
        _members(file)
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    return _readable(path, read)


def folder(path: Path, files: Sequence[Path], inputs: Sequence[Input]) -> Folder:
    """The samples of a folder's .npz or .npy files, in the order of their names."""
    if {f.suffix.lower() for f in files} == {".npz"}:
        return Folder(files, inputs)
    if any(f.suffix.lower() == ".npz" for f in files):
        raise FeedError(f"{path}: holds both .npz and .npy files; expected one kind, a sample per file")
    if len(inputs) == 1:
        return Folder([{inputs[0].name: f} for f in files], inputs)
    return Folder(_joined(path, files, inputs), inputs)


def _joined(path: Path, files: Sequence[Path], inputs: Sequence[Input]) -> list[dict[str, Path]]:
    """Files by input of each sample: those named <input>_<rest>.npy with the same rest."""
    samples: dict[str, dict[str, Path]] = {}
    names = sorted((i.name for i in inputs), key=len, reverse=True)
    for file in files:
        name = next((n for n in names if file.stem.startswith(f"{_in_file_name(n)}_")), None)
        if name is None:
            raise FeedError(f"{file}: expected <input>_<sample>.npy; {expected(inputs)}")
        samples.setdefault(file.stem[len(name) + 1 :], {})[name] = file
    for rest, files_of_sample in samples.items():
        missing = [i.name for i in inputs if i.name not in files_of_sample and not i.optional]
        if missing:
            raise FeedError(
                f"{path}: sample {rest!r} has no {_in_file_name(missing[0])}_{rest}.npy; {expected(inputs)}"
            )
    return [samples[rest] for rest in sorted(samples)]


def _in_file_name(name: str) -> str:
    """An input's name without the characters that no file name can have."""
    return name.replace("/", "_").replace(":", "_")
