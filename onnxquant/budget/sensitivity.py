"""What single weights do to the outputs: the noise that a model has when only some of its weights are encoded."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import with_weights
from onnxquant.graph.publish import ALIGNMENT, Publisher, refer
from onnxquant.graph.traverse import graphs
from onnxquant.numerics.score import Score, closeness


class Sensitivity:
    """A float model whose weights can be replaced, and its outputs on some samples.

    Args:
        document: the prepared model.
        feeds: samples.
        folder: for temporary files.
        threads: of sessions.
    """

    def __init__(self, document: Document, feeds: Sequence[Feed], folder: Path, threads: int | None) -> None:
        self.feeds, self._threads, self._folder = list(feeds), threads, folder
        path = folder / "float.onnx"
        proto = onnx.ModelProto()
        proto.CopyFrom(document.proto)
        with Publisher(path, external=True, force=True) as publisher:
            publisher.keep(proto, document)
            publisher.publish(proto)
        self._proto = onnx.load(path, load_external_data=False)
        session = self.session(self._proto)
        self._expected = [runtime.run(session, feed) for feed in self.feeds]

    @contextmanager
    def stored(self, replaced: Iterable[tuple[str, NDArray[Any]]]) -> Iterator[onnx.ModelProto]:
        """The model with other values for some weights, which lie in a file while the context lasts: there may be many."""
        proto, path = onnx.ModelProto(), self._folder / f"{secrets.token_hex(8)}.data"
        proto.CopyFrom(self._proto)
        tensors = {t.name: t for graph in graphs(proto.graph) for t in graph.initializer}
        try:
            with path.open("wb") as file:
                for name, values in replaced:
                    offset = -file.tell() % ALIGNMENT + file.tell()
                    file.seek(offset)
                    raw = np.ascontiguousarray(values)
                    file.write(raw.view(np.uint8).reshape(-1).data)
                    refer(tensors[name], path.name, offset, raw.nbytes)
            yield proto
        finally:
            path.unlink(missing_ok=True)

    def session(self, proto: onnx.ModelProto) -> runtime.Session:
        """A session on such a model."""
        settings = runtime.session_options(threads=self._threads)
        return runtime.open_session(proto.SerializeToString(), settings, folder=self._folder)

    def score_of(self, session: runtime.Session) -> Score:
        """How close a session's outputs are to the float model's."""
        return closeness(self._expected, [runtime.run(session, feed) for feed in self.feeds])

    def score(self, replaced: Mapping[str, NDArray[Any]], base: onnx.ModelProto | None = None) -> Score:
        """How close the outputs are with other values for a few weights.

        Args:
            replaced: values by name of the tensor.
            base: the model that they are replaced in; None: the float one.
        """
        return self.score_of(self.session(with_weights(base or self._proto, replaced)))


class Cache:
    """Figures that take long to measure, in a file that another run reads.

    Args:
        path: the file; None: they are kept for this run alone.
        about: what they hold for: model, samples, versions.
    """

    def __init__(self, path: Path | None, about: str) -> None:
        self._path, self._about = path, about
        self._known: dict[str, float] = {}
        if path and path.exists():
            stored = _read(path)
            self._known = stored.get(about, {})

    @classmethod
    def of(cls, folder: Path | None, document: Document, feeds: Sequence[Feed]) -> Self:
        """The cache for a model and samples in a folder for work."""
        found = hashlib.blake2b(document.proto.SerializeToString(deterministic=True), digest_size=16)
        for feed in feeds:
            for name, array in feed.items():
                found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return cls(folder and folder / "sensitivity.json", found.hexdigest())

    def get(self, key: str) -> float | None:
        """A figure that is known."""
        return self._known.get(key)

    def put(self, key: str, value: float) -> None:
        """Keep a figure."""
        self._known[key] = value
        if self._path:
            stored = _read(self._path) if self._path.exists() else {}
            temporary = self._path.with_name(f".{self._path.name}.new")
            temporary.write_text(json.dumps(stored | {self._about: self._known}))
            temporary.replace(self._path)


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
