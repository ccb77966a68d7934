"""Samples for a run: the user's, or synthetic ones that the model accepts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find
from onnxquant.passes.pipeline import prepare

SYNTHETIC = 8
"""Synthetic samples where nobody says how many."""


@dataclass(frozen=True)
class Listed:
    """Samples in memory, with where they came from."""

    feeds: list[feeds_.Feed]
    about: dict[str, Any]

    def __iter__(self) -> Iterator[feeds_.Feed]:
        return iter(self.feeds)

    def __len__(self) -> int:
        return len(self.feeds)


def given(data: str | Path | Iterable[Mapping[str, Any]], inputs: list[feeds_.Input], limit: int | None) -> Listed:
    """The user's samples.

    Raises:
        FeedError: they do not fit the model.
    """
    feeds = feeds_.read(data, inputs, limit)
    return Listed(feeds, {"source": str(data) if isinstance(data, (str, Path)) else "data", "samples": len(feeds)})


def made_up(session: runtime.Session, document: Document, dims: Mapping[str, int], count: int, seed: int) -> Listed:
    """Seeded synthetic samples, of the first shapes with which the model runs.

    Raises:
        FeedError: the model runs with none of them.
    """
    inputs = inputs_of(session)
    prepared = document.copy()
    prepare(prepared)
    tables = feeds_.vocabulary(prepared, find(prepared)[0])
    failure = ""
    for guess in feeds_.guesses(inputs, dims):
        feeds = feeds_.synthetic(inputs, tables, guess, count, seed)
        try:
            for feed in feeds:
                runtime.run(session, feed)
        except ModelError as error:
            failure = failure or str(error)
            continue
        about = {"source": "synthetic", "samples": count, "seed": seed}
        return Listed(feeds, {**about, "shapes": {k: list(v.shape) for k, v in feeds[0].items()}})
    takes = ", ".join(map(str, inputs))
    raise FeedError(
        f"no synthetic feed fits ({failure}); give data, or lengths with --dim NAME=N; the model takes {takes}"
    )


def inputs_of(session: runtime.Session) -> list[feeds_.Input]:
    """What a session takes."""
    return [feeds_.Input(name, kind, tuple(shape)) for name, kind, shape in runtime.inputs_of(session)]
