"""Samples for a run: the user's, or synthetic ones that the model accepts."""

from __future__ import annotations

from collections.abc import Mapping

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find
from onnxquant.passes.pipeline import prepare

SYNTHETIC = 8
"""Synthetic samples where nobody says how many."""


def given(
    data: feeds_.Data, inputs: list[feeds_.Input], limit: int | None, preprocess: feeds_.Description | None = None
) -> feeds_.Feeds:
    """The user's samples, read when they are asked for.

    Raises:
        FeedError: they do not fit the model.
    """
    return feeds_.open_feeds(data, inputs, limit=limit, preprocess=preprocess)


def made_up(
    session: runtime.Session, document: Document, dims: Mapping[str, int], count: int, seed: int
) -> feeds_.Feeds:
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
        feeds = feeds_.Synthetic(inputs, tables, guess, count, seed)
        try:
            for feed in feeds:
                runtime.run(session, feed)
        except ModelError as error:
            failure = failure or str(error)
            continue
        return feeds
    takes = ", ".join(map(str, inputs))
    raise FeedError(
        f"no synthetic feed fits ({failure}); give data, or lengths with --dim NAME=N; the model takes {takes}"
    )


def inputs_of(session: runtime.Session) -> list[feeds_.Input]:
    """What a session takes."""
    return [feeds_.Input(name, kind, tuple(shape)) for name, kind, shape in runtime.inputs_of(session)]
