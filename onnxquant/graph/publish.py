"""Atomic writing of models: at any moment the output is the old one or the whole new one.

Planes are appended to a temporary file beside the output as they are made. Publishing syncs it, then renames: data
first, graph last. Where an old pair is replaced, the graph is first published with the temporary data file's name, so
that no moment shows a new graph beside old data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import onnx

from onnxquant.errors import OutputError
from onnxquant.graph.external import refer
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import Make
from onnxquant.graph.seal import seal
from onnxquant.graph.traverse import graphs, tensors
from onnxquant.graph.wire import varint
from onnxquant.system.files import one_process_at_a_time, refuse_taken, temporary_name

# Sessions map external tensors; ONNX Runtime and some systems want page-aligned offsets for that.
ALIGNMENT = 4096
# protobuf refuses to serialize 2 GiB; the graph needs some room of its own.
MAX_INLINE = (2 << 30) - (16 << 20)
# A location no file can have: it marks tensors whose bytes a sink has taken, until the final name is known.
STORED = "\x00stored"
_COPY = 16 << 20


class SizeCounter:
    """A sink that counts the bytes that a Publisher would write.

    Args:
        external: whether tensors go to a data file.
        location: name of that file.
    """

    def __init__(self, *, external: bool, location: str) -> None:
        self.external = external
        self.location = location
        self.nbytes = 0
        self.hashes: dict[str, str] = {}

    def store(self, tensor: onnx.TensorProto, nbytes: int, make: Make | None) -> None:
        """Count the bytes, and give the tensor a reference as long as the real one."""
        note_hash(self.hashes, tensor.name, "0" * 64)
        self.nbytes += -self.nbytes % ALIGNMENT if self.external else 0
        refer(tensor, STORED, self.nbytes, nbytes)
        self.nbytes += nbytes

    def total(self, proto: onnx.ModelProto) -> int:
        """Bytes of the model and its data file once ``proto`` is published; ``proto``, a copy made for this, is changed."""
        seal(proto, self.hashes)
        size = self.nbytes
        for tensor in _referring(proto, STORED):
            if self.external:
                tensor.external_data[0].value = self.location
            else:
                stored = int(tensor.external_data[2].value)
                size += 1 + len(varint(stored))  # the field's tag and length
                del tensor.external_data[:]
                tensor.ClearField("data_location")
        return int(proto.ByteSize()) + size


class Publisher:
    """A sink that writes planes to disk and publishes the finished model atomically.

    Args:
        output: the model file to make; its data file, if it gets one, is ``<output>.data`` beside it.
        external: tensors go to the data file rather than into the model.
        force: an existing output may be replaced.

    Raises:
        OutputError: the folder is missing or read-only, the output exists, or writing fails.
    """

    def __init__(self, output: Path, *, external: bool, force: bool) -> None:
        self.output = output
        self.data = output.with_name(output.name + ".data")
        self.external = external
        self.force = force
        self.hashes: dict[str, str] = {}
        self._temporary: list[Path] = []
        self._position = 0
        try:
            self._refuse_unusable()
            self._stream = self._create("data")
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise OutputError(f"{output}: cannot be written: {error.strerror}") from None
            raise

    def _refuse_unusable(self) -> None:
        if self.output.is_dir():
            raise OutputError(f"{self.output}: is a folder; expected a file name")
        if not self.output.parent.is_dir():
            raise OutputError(f"{self.output}: the folder {self.output.parent} does not exist")
        for path in (self.output, self.data) if self.external else (self.output,):
            refuse_taken(path, force=self.force)

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
        if self.external:
            self._position += self._stream.write(b"\0" * (-self._position % ALIGNMENT))
        digest = hashlib.sha256()
        for start in range(0, len(raw), _COPY):
            part = raw[start : start + _COPY]
            digest.update(part)
            self._stream.write(part)
        note_hash(self.hashes, tensor.name, digest.hexdigest())
        refer(tensor, STORED, self._position, len(raw))
        self._position += len(raw)

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
        if self.external:
            data = model.with_name(model.name + ".data")
            with data.open("rb") as file:
                shutil.copyfileobj(file, self._stream, _COPY)
            _relocate(proto, data.name, STORED)
        self._publish_sealed(proto)

    def _publish_sealed(self, proto: onnx.ModelProto) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        with one_process_at_a_time(self.output.parent):
            self._refuse_unusable()  # another run may have been faster
            self._move(proto)
        self._sync_folder()

    def _move(self, proto: onnx.ModelProto) -> None:
        """Move the finished files to their places: data first, the graph last."""
        if self.external:
            _relocate(proto, STORED, self.data.name)
        if not self.external:
            self._fill(proto)
            self._replace(self._write(proto), self.output)
        elif self.output.exists() or self.data.exists():
            self._replace_pair(proto)
        else:
            self._make_pair(proto)

    def _make_pair(self, proto: onnx.ModelProto) -> None:
        graph = self._write(proto)
        try:
            self._replace(Path(self._stream.name), self.data)
            self._replace(graph, self.output)
        except BaseException:
            if not self.output.exists():  # else only the news of success was lost
                self.data.unlink(missing_ok=True)
            raise

    def _replace_pair(self, proto: onnx.ModelProto) -> None:
        """Old pair -> new graph on the temporary data -> new pair; each step is one rename, a failed one is undone."""
        temporary = Path(self._stream.name)
        _relocate(proto, self.data.name, temporary.name)
        interim, final = self._write(proto), self._write_final(proto, temporary.name)
        second = self._second_name(temporary)
        old = [(place, self._second_name(place) if place.exists() else None) for place in (self.data, self.output)]
        # The output needs the temporary data until the last step, or until the old pair is back.
        self._temporary.remove(temporary)
        try:
            self._replace(interim, self.output)
            self._replace(second, self.data)
            self._replace(final, self.output)
        except BaseException:
            for place, copy in old:
                self._replace(copy, place) if copy else place.unlink(missing_ok=True)
            self._temporary.append(temporary)
            raise
        self._temporary.append(temporary)

    def _second_name(self, path: Path) -> Path:
        """The same file under a temporary name; a copy where the file system has no links."""
        second = self._name("link")
        try:
            os.link(path, second)
        except OSError:
            shutil.copyfile(path, second)
        return second

    def _write_final(self, proto: onnx.ModelProto, interim: str) -> Path:
        _relocate(proto, interim, self.data.name)
        return self._write(proto)

    def _fill(self, proto: onnx.ModelProto) -> None:
        """Put the stored bytes into the tensors of a model without a data file."""
        if self._position > MAX_INLINE:
            raise OutputError(
                f"{self.output}: {self._position} bytes of tensors do not fit one protobuf file (2 GiB); "
                f"use --external-data auto or always"
            )
        with Path(self._stream.name).open("rb") as spool:
            for tensor in _referring(proto, STORED):
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


def refuse_overwriting(source: Document, output: Path) -> None:
    """Refuse an output that is one of the source's own files.

    Raises:
        OutputError: inputs are never overwritten.
    """
    if source.path is None:
        return
    inputs = [source.path, *source.data_files()]
    for written in (output, output.with_name(output.name + ".data")):
        with contextlib.suppress(OSError):  # a name too long to exist
            if written.exists() and any(written.samefile(read) for read in inputs):
                raise OutputError(f"{written}: is an input; inputs are never overwritten, give another output")


def _relocate(proto: onnx.ModelProto, before: str, after: str) -> None:
    for tensor in _referring(proto, before):
        tensor.external_data[0].value = after


def is_stored(tensor: onnx.TensorProto) -> bool:
    """Whether a sink has taken the tensor's bytes."""
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    return external and bool(tensor.external_data) and tensor.external_data[0].value == STORED


def note_hash(hashes: dict[str, str], name: str, digest: str) -> None:
    """Record a tensor's hash; graphs beside each other may use one name twice, then hashes are joined by commas."""
    hashes[name] = f"{hashes[name]},{digest}" if name in hashes else digest


def _referring(proto: onnx.ModelProto, location: str) -> list[onnx.TensorProto]:
    return [
        t
        for t in tensors(proto)
        if t.data_location == onnx.TensorProto.EXTERNAL and t.external_data[0].value == location
    ]
