"""Atomic writing of models: at any moment the output is the old one or the whole new one.

Planes are appended to temporary files beside the output as they are made. Publishing syncs them, then renames: data
first, graph last. Where an old pair is replaced, the graph is first published with the names of the temporary data files,
so that no moment shows a new graph beside old data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import onnx

from onnxquant.errors import OutputError
from onnxquant.graph.data_files import (
    STORED,
    DataFiles,
    Places,
    default_data,
    is_stored,
    locations_of,
    relocate,
    stored_tensors,
)
from onnxquant.graph.external import refer
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import Make
from onnxquant.graph.neighbours import other_owner
from onnxquant.graph.replaced import ReplacedModel
from onnxquant.graph.seal import note_hash, seal
from onnxquant.graph.traverse import graphs, tensors
from onnxquant.system.files import one_process_at_a_time, refuse_taken, temporary_name

# protobuf refuses to serialize 2 GiB; the graph needs some room of its own.
MAX_INLINE = (2 << 30) - (16 << 20)
_COPY = 16 << 20


class Publisher:
    """A sink that writes planes to disk and publishes the finished model atomically.

    Args:
        output: the model file to make.
        external: tensors go to data files beside it rather than into the model.
        force: an existing output may be replaced.
        data: names of the data files; None: one file, ``<output>.data``.
        source: the model that the output is made of, whose files are never removed; None: there is none.

    Attributes:
        notes: sentences on data files of a replaced model that stay.

    Raises:
        OutputError: the folder is missing or read-only, the output exists, or writing fails.
    """

    def __init__(
        self,
        output: Path,
        *,
        external: bool,
        force: bool,
        data: DataFiles | None = None,
        source: Document | None = None,
    ) -> None:
        self.output = output
        self.source = source
        self.notes: list[str] = []
        self.data = (data or default_data(output)) if external else None
        self.force = force
        self.hashes: dict[str, str] = {}
        self._temporary: list[Path] = []
        self._places = Places(self.data)
        self._files: list[Path] = []
        try:
            self._refuse_unusable()
            self._stream = self._create("data")
            self._files.append(Path(self._stream.name))
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise OutputError(f"{output}: cannot be written: {error.strerror}") from None
            raise

    def _refuse_unusable(self) -> None:
        refuse_taken(self.output, force=self.force)
        for place in self._data_places():
            refuse_taken(place, force=self.force)
            if place.exists() and (other := other_owner(place, self.output)):
                advice = "give the data another name with --data-name (data_name=...)"
                raise OutputError(f"{place}: holds tensors of {other}, too; {advice}")

    def _data_places(self) -> list[Path]:
        """Places of the data files so far, of one at least."""
        count = max(1, len(self._files)) if self.data else 0
        return [self.output.with_name(self.data.name(i)) for i in range(count)] if self.data else []

    def __enter__(self) -> Self:
        """The publisher itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove whatever was not published; report a failed write as one error."""
        try:
            with contextlib.suppress(OSError):
                self._stream.close()
        finally:
            self._discard()
        if isinstance(error, OSError):
            elsewhere = error.filename and Path(error.filename).parent != self.output.parent
            where = f": {error.filename}" if elsewhere else ""
            raise OutputError(f"{self.output}: cannot be written: {error.strerror or error}{where}") from None

    def _discard(self) -> None:
        try:
            while self._temporary:
                with contextlib.suppress(OSError):
                    self._temporary[-1].unlink(missing_ok=True)
                self._temporary.pop()
        except BaseException:  # interrupted while cleaning up: that is finished first
            self._discard()
            raise

    def store(self, tensor: onnx.TensorProto, nbytes: int, make: Make) -> None:
        """Append a tensor's bytes to the data file and refer to them."""
        array = make()
        # As bytes first: not every element type (bfloat16) has a buffer of its own.
        raw = (
            memoryview(cast(Any, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
            if array.size
            else memoryview(b"")
        )
        if len(raw) != nbytes:
            raise AssertionError(f"{tensor.name}: {len(raw)} bytes made, {nbytes} planned")
        self.append(tensor, raw)

    def append(self, tensor: onnx.TensorProto, raw: memoryview) -> None:
        """Append bytes to the data file and refer to them."""
        before = self._places.ends[-1]
        place = self._places.take(tensor.name, len(raw))
        if place.file == len(self._files):
            self._begin_file()
        elif place.offset > before:
            self._stream.write(b"\0" * (place.offset - before))
        digest = hashlib.sha256()
        for start in range(0, len(raw), _COPY):
            part = raw[start : start + _COPY]
            digest.update(part)
            self._stream.write(part)
        note_hash(self.hashes, tensor.name, digest.hexdigest())
        refer(tensor, f"{STORED}{place.file}", place.offset, len(raw))

    def _begin_file(self) -> None:
        """End the data file at work, and begin the next one."""
        self._sync()
        self._stream.close()
        self._stream = self._create("data")
        self._files.append(Path(self._stream.name))

    def _sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def keep(self, proto: onnx.ModelProto, source: Document) -> None:
        """Store the tensors of ``source`` that nothing has replaced: referenced initializers here, the rest in the graph."""
        for graph in graphs(proto.graph):
            for tensor in graph.initializer:
                if not is_stored(tensor) and (raw := source.referenced(tensor)) is not None:
                    self.append(tensor, raw)
        for tensor in tensors(proto):
            if not is_stored(tensor):
                source.inline(tensor)

    def publish(self, proto: onnx.ModelProto) -> None:
        """Write the graph and move everything to its place."""
        seal(proto, self.hashes)
        self._publish_sealed(proto)

    def publish_copy(self, model: Path) -> None:
        """Publish the same bytes as a file that a publisher with the same settings wrote under another name."""
        proto = onnx.load_model(model, load_external_data=False)
        for number, location in enumerate(locations := locations_of(proto)):
            if number:
                self._begin_file()
            with model.with_name(location).open("rb") as file:
                shutil.copyfileobj(file, self._stream, _COPY)
        relocate(proto, {location: f"{STORED}{i}" for i, location in enumerate(locations)})
        self._publish_sealed(proto)

    def publish_moved(self, model: Path) -> None:
        """Publish a model under another name; its data files get second names, where the file system has links."""
        proto = onnx.load_model(model, load_external_data=False)
        locations = locations_of(proto)
        if self.data is None:
            with self._replacing():
                self._replace(self._second_name(model), self.output)
            return
        self._files = []
        for location in locations:
            self._stream.close()
            self._files.append(self._second_name(model.parent / location))
            self._stream = self._files[-1].open("rb")
            self._sync()
        relocate(proto, {location: f"{STORED}{i}" for i, location in enumerate(locations)})
        self._publish_sealed(proto)

    def _publish_sealed(self, proto: onnx.ModelProto) -> None:
        self._sync()
        with self._replacing():
            self._move(proto)

    @contextlib.contextmanager
    def _replacing(self) -> Iterator[None]:
        """A block that puts the new files in place, alone in the folder; then unused data of the old model is removed."""
        with one_process_at_a_time(self.output.parent):
            self._refuse_unusable()  # another run may have been faster
            replaced = ReplacedModel(self.output)
            try:
                yield
                self._sync_folder()
            finally:
                replaced.remove_unused(self.source)
                self.notes += replaced.notes

    def _move(self, proto: onnx.ModelProto) -> None:
        """Move the finished files to their places: data first, the graph last."""
        places = self._data_places()
        if not places:
            self._fill(proto)
            self._replace(self._write(proto), self.output)
        elif self.output.exists() or any(place.exists() for place in places):
            self._replace_pair(proto, places)
        else:
            self._make_pair(proto, places)

    def _make_pair(self, proto: onnx.ModelProto, places: list[Path]) -> None:
        relocate(proto, {f"{STORED}{i}": place.name for i, place in enumerate(places)})
        graph = self._write(proto)
        try:
            for file, place in zip(self._files, places, strict=True):
                self._replace(file, place)
            self._replace(graph, self.output)
        except BaseException:
            if not self.output.exists():  # else only the news of success was lost
                for place in places:
                    place.unlink(missing_ok=True)
            raise

    def _replace_pair(self, proto: onnx.ModelProto, places: list[Path]) -> None:
        """Old pair -> new graph on the temporary data -> new pair; each step is one rename, a failed one is undone."""
        relocate(proto, {f"{STORED}{i}": file.name for i, file in enumerate(self._files)})
        interim = self._write(proto)
        relocate(proto, {file.name: place.name for file, place in zip(self._files, places, strict=True)})
        final = self._write(proto)
        seconds = [self._second_name(file) for file in self._files]
        old = [(place, self._second_name(place) if place.exists() else None) for place in (*places, self.output)]
        # The output needs the temporary data until the last step, or until the old pair is back.
        for file in self._files:
            self._temporary.remove(file)
        try:
            self._replace(interim, self.output)
            for second, place in zip(seconds, places, strict=True):
                self._replace(second, place)
            self._replace(final, self.output)
        except BaseException:
            for place, copy in old:
                self._replace(copy, place) if copy else place.unlink(missing_ok=True)
            self._temporary += self._files
            raise
        self._temporary += self._files

    def _second_name(self, path: Path) -> Path:
        """The same file under a temporary name; a copy where the file system has no links."""
        second = self._name("link")
        try:
            os.link(path, second)
        except OSError:
            shutil.copyfile(path, second)
        return second

    def _fill(self, proto: onnx.ModelProto) -> None:
        """Put the stored bytes into the tensors of a model without a data file."""
        if self._places.ends[0] > MAX_INLINE:
            raise OutputError(
                f"{self.output}: {self._places.ends[0]} bytes of tensors do not fit one protobuf file (2 GiB); "
                f"use --external-data auto or always"
            )
        with Path(self._stream.name).open("rb") as spool:
            for tensor in stored_tensors(proto):
                entries = {e.key: e.value for e in tensor.external_data}
                spool.seek(int(entries["offset"]))
                raw = spool.read(int(entries["length"]))
                del tensor.external_data[:]
                tensor.ClearField("data_location")
                tensor.raw_data = raw

    def _write(self, proto: onnx.ModelProto) -> Path:
        with self._create("onnx") as stream:
            stream.write(proto.SerializeToString(deterministic=True))
            stream.flush()
            os.fsync(stream.fileno())
            return Path(stream.name)

    def _create(self, kind: str) -> BinaryIO:
        # Not mkstemp, whose files are for the owner alone: the output has the mode that any new file has.
        return self._name(kind).open("xb")

    def _name(self, kind: str) -> Path:
        """A name for a temporary file, to be removed from now on."""
        path = temporary_name(self.output.parent, kind)
        self._temporary.append(path)
        return path

    def _replace(self, source: Path, destination: Path) -> None:
        source.replace(destination)

    def _sync_folder(self) -> None:
        # Everything is in place by now: a folder that cannot be synced (some file systems) is no failure.
        with contextlib.suppress(OSError):
            folder = os.open(self.output.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_copy(document: Document, path: Path, *, external: bool = True) -> None:
    """Write a model as it is in memory; the document itself stays as it is.

    Args:
        document: the model
        path: the file, which may be there already
        external: whether the tensors go to a file of their own
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(document.proto)
    with Publisher(path, external=external, force=True) as publisher:
        publisher.keep(proto, document)
        publisher.publish(proto)


def refuse_overwriting(source: Document, output: Path, data: DataFiles | None = None) -> None:
    """Refuse an output that is one of the source's own files.

    Args:
        source: the input.
        output: the file to write.
        data: names of its data files; None: it is no model, or has none.

    Raises:
        OutputError: inputs are never overwritten.
    """
    if source.path is None:
        return
    inputs = [source.path, *source.data_files()]
    with contextlib.suppress(OSError):  # a name too long to exist
        places = [output] if output.exists() else []
        for written in (*places, *(data.names_present(output.parent) if data else ())):
            if any(written.samefile(read) for read in inputs):
                raise OutputError(f"{written}: is an input; inputs are never overwritten, give another output")
