"""The noise that encoding single weights makes at the outputs of a model."""

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
from onnxquant.graph.data_files import ALIGNMENT
from onnxquant.graph.external import refer
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import with_weights
from onnxquant.graph.publish import write_copy
from onnxquant.graph.traverse import graphs
from onnxquant.numerics.score import Judge, Score
from onnxquant.recipe.options import Options


class FloatModel:
    """A float model whose weights can be replaced, and its outputs on some samples.

    Args:
        document: the prepared model
        feeds: samples
        folder: folder for temporary files
        options: number of threads of a session, and the outputs that matter
    """

    def __init__(self, document: Document, feeds: Sequence[Feed], folder: Path, options: Options) -> None:
        self.feeds, self._threads, self._folder = list(feeds), options.threads, folder
        path = folder / "float.onnx"
        write_copy(document, path)
        self._proto = onnx.load(path, load_external_data=False)
        session = self.session(self._proto)
        self._judge = Judge([runtime.run(session, feed) for feed in self.feeds], options.judge)

    @contextmanager
    def with_weights(self, weights: Iterable[tuple[str, NDArray[Any]]]) -> Iterator[onnx.ModelProto]:
        """The model with other values of some weights. There may be many: they lie in a file while the context lasts.

        Args:
            weights: names of tensors with their values
        """
        proto, path = onnx.ModelProto(), self._folder / f"{secrets.token_hex(8)}.data"
        proto.CopyFrom(self._proto)
        tensors = {t.name: t for graph in graphs(proto.graph) for t in graph.initializer}
        try:
            with path.open("wb") as file:
                for name, values in weights:
                    offset = -file.tell() % ALIGNMENT + file.tell()
                    file.seek(offset)
                    raw = np.ascontiguousarray(values)
                    file.write(raw.view(np.uint8).reshape(-1).data)
                    refer(tensors[name], path.name, offset, raw.nbytes)
            yield proto
        finally:
            path.unlink(missing_ok=True)

    def session(self, proto: onnx.ModelProto) -> runtime.Session:
        """A session on this model with other weights."""
        settings = runtime.session_options(threads=self._threads)
        return runtime.open_session(proto.SerializeToString(), settings, folder=self._folder)

    def score_of(self, session: runtime.Session) -> Score:
        """Closeness of a session's outputs to those of the float model."""
        return self._judge.score([runtime.run(session, feed) for feed in self.feeds])

    def score(self, weights: Mapping[str, NDArray[Any]], base: onnx.ModelProto | None = None) -> Score:
        """Closeness of the outputs to those of the float model when a few weights have other values.

        Args:
            weights: values by name of the tensor
            base: the model with the other weights; None: the float model
        """
        return self.score_of(self.session(with_weights(base or self._proto, weights)))


class FigureCache:
    """Figures that take long to measure, in a file that another run reads.

    Args:
        path: the file; None: figures are kept for this run alone
        subject: digest of the model and the samples that the figures hold for
    """

    def __init__(self, path: Path | None, subject: str) -> None:
        self._path, self._subject = path, subject
        self._figures: dict[str, float] = {}
        if path and path.exists():
            self._figures = _read(path).get(subject, {})

    @classmethod
    def of(cls, folder: Path | None, document: Document, feeds: Sequence[Feed]) -> Self:
        """The cache for a model and samples in a work folder."""
        digest = hashlib.blake2b(document.proto.SerializeToString(deterministic=True), digest_size=16)
        for feed in feeds:
            for name, array in feed.items():
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return cls(folder and folder / "sensitivity.json", digest.hexdigest())

    def get(self, key: str) -> float | None:
        """A figure; None where it is not known."""
        return self._figures.get(key)

    def put(self, key: str, value: float) -> None:
        """Keep a figure."""
        self._figures[key] = value
        if self._path:
            stored = _read(self._path) if self._path.exists() else {}
            temporary = self._path.with_name(f".{self._path.name}.new")
            temporary.write_text(json.dumps(stored | {self._subject: self._figures}))
            temporary.replace(self._path)


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
