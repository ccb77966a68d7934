"""Samples for a run: the user's, opened once, or synthetic ones that the model accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.passes.pipeline import prepare
from onnxquant.recipe.options import Options

SYNTHETIC = 8
"""Number of synthetic samples if the user names none."""


class Samples:
    """The user's samples. They are opened when a step first needs them, and steps that need fewer take the first ones.

    A run that only proves goes through no more samples than the proof needs. Where calibration needs more, it has to ask
    first: else they are opened again.

    Args:
        data: the samples as the user gave them; see ``open_feeds``
        options: numbers of samples, preprocessing and threads
    """

    def __init__(self, data: feeds_.Data, options: Options) -> None:
        self._data, self._options = data, options
        self._feeds: feeds_.Feeds | None = None
        self._limit = 0

    def for_calibration(self, model: Document) -> feeds_.Feeds:
        """The samples that statistics and searches run on.

        Args:
            model: a model that takes the inputs

        Raises:
            FeedError: they do not fit the model.
        """

        def inputs() -> list[feeds_.Input]:
            with runtime.session_of(model, threads=self._options.threads) as session:
                return inputs_of(session)

        count = self._options.calibration_samples
        return _first(self._opened(inputs, max(count, self._options.samples)), count)

    def for_proof(self, session: runtime.Session) -> feeds_.Feeds:
        """The samples that the proof compares outputs on.

        Args:
            session: session of the original model

        Raises:
            FeedError: they do not fit the model.
        """
        count = self._options.samples
        return _first(self._opened(lambda: inputs_of(session), count), count)

    def _opened(self, inputs: Callable[[], list[feeds_.Input]], limit: int) -> feeds_.Feeds:
        if self._feeds is None or self._limit < limit:
            self._feeds = feeds_.open_feeds(self._data, inputs(), limit=limit, preprocess=self._options.preprocess)
            self._limit = limit
        return self._feeds


def _first(feeds: feeds_.Feeds, count: int) -> feeds_.Feeds:
    return feeds if len(feeds) <= count else feeds_.Chosen(feeds, range(count))


def synthetic_samples(
    session: runtime.Session, document: Document, dims: Mapping[str, int], count: int, seed: int
) -> feeds_.Feeds:
    """Seeded synthetic samples, of the first shapes with which the model runs.

    Raises:
        FeedError: the model runs with none of them.
    """
    inputs = inputs_of(session)
    prepared = document.copy()
    prepare(prepared)
    tables = feeds_.vocabulary(prepared, find_sites(prepared)[0])
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
    """The inputs of a session."""
    return [feeds_.Input(name, kind, tuple(shape)) for name, kind, shape in runtime.inputs_of(session)]
