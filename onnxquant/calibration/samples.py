"""Samples for a run: the user's, opened once, or synthetic ones that the model accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.calibration.folds import SearchSamples, folded, undivided
from onnxquant.calibration.inputs import inputs_of, sampled_inputs_of
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.passes.pipeline import prepare
from onnxquant.recipe.options import Options

_LARGEST_PIXEL = 255
# Number of samples that labels are compared on, where nothing was made from samples.
_LABELLED = 500
SYNTHETIC = 8
"""Number of synthetic samples if the user names none."""

# Elements of a sample, and bytes of a model, with which a call takes next to no time.
_SMALL_SAMPLE, _SMALL_MODEL = 4096, 4 << 20

# Largest number of samples in folds that candidates of a search are compared on.
_JUDGED_IN_FOLDS = 24


class Samples:
    """The user's samples. They are opened when a step first needs them.

    A run that makes nothing from samples opens no more of them than its proof needs. Else one split serves every step: what
    judges a search judges the result too, and nothing is made from it.

    Args:
        data: the samples as the user gave them; see ``open_feeds``
        options: numbers of samples, preprocessing and threads
        facts: facts about the model, from which steps follow that the options leave open
        are_compared_on: whether whole files are compared on them: then more of them judge where that takes next to no time
    """

    def __init__(
        self,
        data: feeds_.Data,
        options: Options,
        facts: feeds_.ModelFacts = feeds_.NO_FACTS,
        *,
        are_compared_on: bool = False,
    ) -> None:
        self._are_compared_on, self._most, self._is_made_from = are_compared_on, feeds_.JUDGED, True
        self._data, self._options, self._facts = data, options, facts
        self._split: feeds_.Split | None = None
        self._feeds: feeds_.Checked | None = None
        self._remarks: list[str] = []
        self._is_last = True
        self._preparation: feeds_.Preparation | None = None
        self._proven, self._is_asked_for_split, self._is_made_from_none = options.samples, False, False

    def for_calibration(self, model: Document) -> feeds_.Split:
        """The samples that statistics and searches run on, and those of other sources that judge them.

        Args:
            model: a model that takes the inputs

        Raises:
            FeedError: they do not fit the model.
        """
        self._is_asked_for_split = True
        if self._split is None:
            judged, calibrated = self._options.samples, self._options.calibration_samples
            opened = self._opened(model, judged + calibrated)
            self._most = self._most_judged(model, opened)
            self._split = feeds_.split(opened, judged, calibrated, self._most)
            if self._are_compared_on:
                self._proven = max(self._proven, len(self._split.judging))
        return self._split

    def _most_judged(self, model: Document, opened: feeds_.Feeds) -> int:
        """The largest number of samples that judge, where no more are asked for."""
        if not self._are_compared_on or model.size() > _SMALL_MODEL or not len(opened):
            return feeds_.JUDGED
        elements = sum(np.size(array) for array in next(iter(opened)).values())
        return feeds_.MANY_JUDGED if elements <= _SMALL_SAMPLE else feeds_.JUDGED

    def limit_calibration(self, calibrated: int) -> None:
        """Let calibration take fewer of the opened samples. Those that judge stay: a later proof finds them again.

        Args:
            calibrated: largest number of samples that calibration takes.
        """
        if self._feeds is not None:
            judged, most = self._options.samples, self._options.calibration_samples
            self._split = feeds_.split(self._feeds, judged, most, self._most, fewer=min(calibrated, most))

    @property
    def opened_split(self) -> feeds_.Split | None:
        """The split of ``for_calibration``; None where no step has asked for it."""
        return self._split if self._is_asked_for_split else None

    def again(self) -> Samples:
        """The same samples, divided alike, for one of several runs, which does not tell accuracies."""
        other = Samples(self._data, self._options, self._facts, are_compared_on=self._are_compared_on)
        other._is_last, other._most, other._proven = False, self._most, self._proven
        other._split, other._feeds, other._preparation = self._split, self._feeds, self._preparation
        return other

    def for_search(self, model: Document, *, in_folds: bool) -> SearchSamples:
        """The samples of a search that they score.

        In folds all of them calibrate, and what is judged on a fold is made from the others. Else, and where other runs
        are compared on the same division, they are those of ``for_calibration``. The proof runs all that judge the search.

        Args:
            model: a model that takes the inputs
            in_folds: whether they are divided into folds, where there are sources for it

        Raises:
            FeedError: they do not fit the model.
        """
        split = self.for_calibration(model)
        samples = folded(split.whole)
        if not in_folds or not samples.count or not self._is_last:
            self._proven = max(self._options.samples, feeds_.JUDGED, self._most)
            others = feeds_.spread(split.judging, feeds_.JUDGED)
            return SearchSamples(undivided(split.calibrating), undivided(others), split.apart)
        judging = samples.some(max(self._options.samples, _JUDGED_IN_FOLDS))
        self._proven = len(judging.feeds)
        self._split = replace(split, calibrating=split.whole, judging=judging.feeds, apart=False)
        return SearchSamples(samples, judging, apart=True)

    def shared(self) -> feeds_.Split:
        """The split of ``for_calibration``, once something is made from the samples that judge."""
        if self._split is None:
            raise FeedError("samples are shared before they are opened")
        self._split = replace(self._split, apart=False)
        return self._split

    def is_split_into(self, model: Document, calibrated: int, judged: int, folds: int) -> bool:
        """Whether the samples of a search have these numbers; if not, the proof takes samples without a split.

        Args:
            model: a model that takes the inputs
            calibrated: number of samples that calibrate
            judged: number of samples that judge
            folds: number of folds that they are divided into; 0: they are not
        """
        choices = dict.fromkeys((self._are_compared_on, False))  # by a search, or by one way
        for are_compared_on, is_limited in product(choices, (False, True)):
            self._are_compared_on, self._split, self._proven = are_compared_on, None, self._options.samples
            self.for_calibration(model)
            if is_limited:  # as for a slow model
                fewer = calibrated if not folds else calibrated - len(self.for_calibration(model).judging)
                self.limit_calibration(max(fewer, 0))
            held_out = len(self.for_calibration(model).judging)
            search = self.for_search(model, in_folds=folds > 0)
            sizes = (len(search.calibrating.feeds), search.calibrating.count)
            if sizes == (calibrated, folds) and judged in (held_out, len(search.judging.feeds)):
                return True
        self._split, self._proven = None, self._options.samples
        return False

    def prove_as_a_search(self, model: Document, *, is_made_from_none: bool) -> None:
        """Let the proof of a file that names no samples that made it run on those that judge in a search.

        Args:
            model: a model that takes the inputs
            is_made_from_none: whether it certainly was made from none, so that these are held out

        Raises:
            FeedError: they do not fit the model.
        """
        self._is_made_from, self._is_made_from_none = False, is_made_from_none
        self.for_calibration(model)

    def for_proof(self, model: Document) -> feeds_.Feeds:
        """The samples that the proof compares outputs on; their origin says whether something was made from their sources.

        Args:
            model: the original model

        Raises:
            FeedError: they do not fit the model.
        """
        if self._split is None:
            opened, apart = self._opened(model, self._options.samples), None
            feeds: feeds_.Feeds = feeds_.Chosen(opened, range(self._options.samples))
        else:
            feeds = feeds_.spread(self._split.judging, self._proven)
            apart = self._split.apart if self._is_made_from else (self._is_made_from_none and self._split.apart) or None
        names = tuple(file.name for file in feeds.files)
        feeds.origin = replace(feeds.origin, apart=apart, files=names or None)
        return feeds

    def preparation(self, model: Document) -> feeds_.Preparation:
        """The way from the samples to inputs, with the ranges of the first ones.

        Args:
            model: a model that takes the inputs

        Raises:
            FeedError: they do not fit the model.
        """
        if self._preparation is None:
            if self._feeds is None:
                self.for_proof(model)
            feeds = self._feeds or ()
            origin = self._feeds.origin if self._feeds else feeds_.SampleOrigin()
            # A run that only proves reads no more samples than it proves with.
            count = feeds_.JUDGED if self.opened_split else self._options.samples
            ranges = feeds_.ranges_of(islice(feeds, count))
            self._preparation = feeds_.Preparation(
                kind=origin.kind, preprocess=origin.preprocess, assumption=origin.assumption, ranges=ranges
            )
        return self._preparation

    def remarks(self, feeds: Sequence[feeds_.Feed], model: Document) -> list[str]:
        """Remarks on samples whose values are not as those that the model was made with, or not as models take them."""
        if self._facts.recorded is not None:
            return [*self._remarks, *self._facts.recorded.strange_ranges(feeds)]
        is_array = self._feeds is not None and self._feeds.origin.kind is None
        inputs = [i for i in inputs_of(model) if self._facts.largest_pixel.get(i.name) != _LARGEST_PIXEL]
        return [*self._remarks, *(feeds_.unscaled_pixels(feeds, inputs) if is_array else [])]

    @property
    def has_labels(self) -> bool:
        """Whether the first sample has a label, and this run tells accuracies."""
        return self._is_last and self.are_labelled

    @property
    def are_labelled(self) -> bool:
        """Whether the first sample has a label."""
        first = next(self._feeds.labelled(), None) if self._feeds is not None else None
        return first is not None and first[1] is not None

    def labelled(self, model: Document) -> feeds_.Feeds | None:
        """The samples that labels tell the accuracy on: those that nothing was made from; None for one run of several.

        Args:
            model: the original model

        Raises:
            FeedError: the labels cannot be read.
        """
        if not self._is_last:
            return None
        if self._split is not None:
            return self._split.held_out or self._split.judging
        if isinstance(self._data, Iterator) and self._feeds is not None:
            return self._feeds
        return self._opened(model, _LABELLED)

    @property
    def labels_from(self) -> str:
        """The origin of labels, in words."""
        return self._options.labels or "the samples themselves"

    def compare(self, sources: Sequence[feeds_.SampleOrigin]) -> None:
        """Note where samples of statistics were prepared otherwise than these."""
        if self._feeds is not None:
            for source in sources:
                other = feeds_.Preparation(kind=source.kind, preprocess=source.preprocess)
                self._remarks += other.differences(self._feeds.origin)

    def _opened(self, model: Document, limit: int) -> feeds_.Checked:
        self._feeds = feeds_.open_feeds(
            self._data, sampled_inputs_of(model), limit=limit, preprocess=self._options.preprocess, facts=self._facts
        )
        if self._options.labels is not None:
            self._feeds.labels = feeds_.LabelFile.read(Path(self._options.labels), self._feeds.classes)
        return self._feeds


def synthetic_samples(
    session: runtime.Session, document: Document, dims: Mapping[str, int], count: int, seed: int
) -> feeds_.Feeds:
    """Seeded synthetic samples, of the first shapes with which the model runs.

    Raises:
        FeedError: the model runs with none of them.
    """
    inputs = inputs_of(document)
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
