"""What single weights do to the outputs: the noise that a model has when only some of its weights are encoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feed
from onnxquant.graph.edit import with_weights
from onnxquant.graph.io import Document
from onnxquant.graph.publish import Publisher
from onnxquant.validation.closeness import Score, closeness


class Sensitivity:
    """A float model whose weights can be replaced, and its outputs on some samples.

    Args:
        document: the prepared model.
        feeds: samples.
        folder: for temporary files.
        threads: of sessions.
    """

    def __init__(self, document: Document, feeds: Sequence[Feed], folder: Path, threads: int | None) -> None:
        self.feeds, self.threads, self._folder = list(feeds), threads, folder
        path = folder / "float.onnx"
        proto = onnx.ModelProto()
        proto.CopyFrom(document.proto)
        with Publisher(path, external=True, force=True) as publisher:
            publisher.keep(proto, document)
            publisher.publish(proto)
        self._proto = onnx.load(path, load_external_data=False)
        self._expected = self.outputs({}, self.feeds)

    def session(self, replaced: Mapping[str, NDArray[Any]]) -> runtime.Session:
        """A session on the model with other values for some weights."""
        proto = with_weights(self._proto, replaced)
        settings = runtime.session_options(threads=self.threads)
        return runtime.open_session(proto.SerializeToString(), settings, folder=self._folder)

    def score_of(self, session: runtime.Session) -> Score:
        """How close a session's outputs are to the float model's."""
        return closeness(self._expected, [runtime.run(session, feed) for feed in self.feeds])

    def score(self, replaced: Mapping[str, NDArray[Any]]) -> Score:
        """How close the outputs are with other values for some weights."""
        return self.score_of(self.session(replaced))

    def outputs(self, replaced: Mapping[str, NDArray[Any]], feeds: Sequence[Feed]) -> list[dict[str, Any]]:
        """Outputs on some samples with other values for some weights."""
        session = self.session(replaced)
        return [runtime.run(session, feed) for feed in feeds]


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
