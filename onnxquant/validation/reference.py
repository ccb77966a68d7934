"""Samples of a comparison, with the outputs of the original model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.calibration.inputs import inputs_of
from onnxquant.calibration.samples import Samples
from onnxquant.errors import FeedError, ModelError, RecipeError, nearest
from onnxquant.graph.analysis.heads import heads_of
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import write_copy
from onnxquant.graph.sites import find_sites
from onnxquant.numerics.classes import NO_FACTS, Heads
from onnxquant.numerics.score import Judge
from onnxquant.passes.pipeline import prepare
from onnxquant.plan.context import Shared
from onnxquant.recipe.options import Options
from onnxquant.validation.footprint import Footprint, footprint
from onnxquant.validation.metric import Metric

# Made-up lengths up to this one are short; a longer sample has one of these times its lengths, and may take so long.
_SHORT_LENGTH, _FACTORS, _MOST_SECONDS = 64, (8, 4, 2), 1.0
# Outputs by name: arrays, or the sequences and maps that onnxruntime returns.
Outputs = Mapping[str, Any]


@dataclass(frozen=True)
class SampledOutputs:
    """Samples with the outputs of the original model.

    Attributes:
        feeds: the samples.
        outputs: outputs by name, of each sample.
        origin: origin of the samples.
        source: samples of the user; None: these are synthetic.
        longer: a synthetic sample of other lengths, for speed alone; None: no length is made up, or there is none.
        step: one token beside the cache of a decoder, for speed alone; None: the model has none, or takes no such sample.
        heads: facts about the outputs.
    """

    feeds: list[feeds_.Feed]
    outputs: list[dict[str, Any]]
    origin: feeds_.SampleOrigin
    source: Samples | None = None
    longer: feeds_.Feed | None = None
    step: feeds_.Feed | None = None
    heads: Heads = NO_FACTS


class Reference:
    """The original model of comparisons. What is known of it is measured once, however many files are compared with it.

    Args:
        document: the original as loaded, not prepared.
        samples: the user's samples; None: synthetic ones are made.
        options: options of the comparison.
        shared: results that the runs share which make files of it; None: there is one run.
    """

    def __init__(
        self, document: Document, samples: Samples | None, options: Options, shared: Shared | None = None
    ) -> None:
        self.document, self._samples, self._options, self.shared = document, samples, options, shared
        self._folder = tempfile.TemporaryDirectory(prefix="onnxquant-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @cached_property
    def path(self) -> Path:
        """A file of the original that onnxruntime opens: its own, or a copy where it has none or its data is linked."""
        if self.document.path and not self.document.follows_links():
            return self.document.path
        path = Path(self._folder.name) / "original.onnx"
        write_copy(self.document, path, external=self.document.is_external())
        return path

    @cached_property
    def outputs(self) -> SampledOutputs | FeedError:
        """Samples with the original's outputs; or why no synthetic samples fit.

        Raises:
            FeedError: the user's samples do not fit.
        """
        try:
            sampled = sampled_outputs(self.path, self._samples, self._options)
        except FeedError as error:
            if self._samples is not None:
                raise
            return error
        has_labels = self._samples is not None and self._samples.are_labelled
        return replace(sampled, heads=replace(heads_of(self.document.proto), has_labels=has_labels))

    @cached_property
    def metric(self) -> float:
        """The user's metric of the original, with a session as users open it.

        Raises:
            RecipeError: there is none, or it fails.
        """
        if self._options.metric is None:
            raise RecipeError("metric is missing, expected a function of a session")
        settings = runtime.session_options(threads=self._options.threads)
        return Metric(self._options.metric)(runtime.open_session(self.path, settings))

    @cached_property
    def judge(self) -> Judge:
        """The judge of outputs by those of the original.

        Raises:
            FeedError: there are no samples.
        """
        if isinstance(self.outputs, FeedError):
            raise self.outputs
        return Judge(self.outputs.outputs, self._options.judge, self.outputs.heads)

    @cached_property
    def footprint(self) -> Footprint:
        """Time and memory that loading the original takes."""
        return footprint(self.path)


def sampled_outputs(model: Path, samples: Samples | None, options: Options) -> SampledOutputs:
    """Run a model on the user's samples, or on synthetic ones that it accepts.

    Args:
        model: the file.
        samples: the user's samples; None: there are none.
        options: number of samples, seed, threads and dims.

    Raises:
        ModelError: the model does not load, or fails on the user's samples.
        FeedError: the data does not fit, or no synthetic feed does.
    """
    document = load(model, options.external_root)
    settings = runtime.session_options(threads=options.threads, mapped=True)
    session = runtime.open_session(model, settings)
    if samples is not None:
        opened = samples.for_proof(document)
        feeds = list(opened)
        remarks = (*(opened.origin.remarks or ()), *samples.remarks(feeds, document))
        origin = replace(opened.origin, remarks=remarks or None)
        outputs = [runtime.run(session, f) for f in feeds]
        return SampledOutputs(feeds, outputs, origin, samples)
    if options.preprocess is not None:
        raise FeedError("preprocess says how samples are made of --data, which is missing")
    inputs = inputs_of(document)
    _check_dims(options, inputs)
    return _synthetic(document, session, inputs, options)


def _synthetic(
    document: Document, session: runtime.Session, inputs: list[feeds_.Input], options: Options
) -> SampledOutputs:
    """Synthetic samples that the model accepts, and its outputs on them."""
    name = document.name
    prepare(document)
    tables = feeds_.vocabulary(document, find_sites(document)[0])
    failure = ""
    for guess in feeds_.guesses(inputs, options.dims()):
        synthetic = feeds_.Synthetic(inputs, tables, guess, options.samples, options.seed)
        feeds = list(synthetic)
        try:
            outputs = [runtime.run(session, f) for f in feeds]
        except ModelError as error:
            failure = failure or str(error)
            continue
        step = _step(session, synthetic)
        longer = None if step else _longer(session, synthetic, feeds[0])
        return SampledOutputs(feeds, outputs, synthetic.origin, longer=longer, step=step)
    takes = ", ".join(map(str, inputs))
    raise FeedError(
        f"{name}: no synthetic feed fits ({failure}); give --data, or lengths with --dim NAME=N; it takes {takes}"
    )


def _step(session: runtime.Session, synthetic: feeds_.Synthetic) -> feeds_.Feed | None:
    """A sample of one token beside a cache, as decoders run for each token that they write; None where none suits."""
    guess = synthetic.guess.step()
    if guess is None:
        return None
    feed = next(iter(replace(synthetic, guess=guess)))
    try:
        runtime.run(session, feed)
    except ModelError:
        return None
    return feed


def _longer(session: runtime.Session, synthetic: feeds_.Synthetic, feed: feeds_.Feed) -> feeds_.Feed | None:
    """A sample whose open lengths are several times as long, for speed alone.

    Args:
        session: the original model.
        synthetic: the samples.
        feed: one of them.

    Returns:
        None where no length is open, or none that is longer suits.
    """
    if synthetic.guess.length > _SHORT_LENGTH:
        return None
    begin = time.perf_counter()
    runtime.run(session, feed)
    seconds = time.perf_counter() - begin
    for factor in _FACTORS:
        longer = next(iter(replace(synthetic, guess=synthetic.guess.times(factor))))
        growth = sum(array.size for array in longer.values()) / sum(array.size for array in feed.values())
        if growth > 1 and growth * seconds < _MOST_SECONDS:
            try:
                runtime.run(session, longer)
            except ModelError:
                continue
            return longer
    return None


def _check_dims(options: Options, inputs: list[feeds_.Input]) -> None:
    known = sorted({d for i in inputs for d in i.shape if isinstance(d, str)})
    for name in options.dims():
        if name not in known:
            raise RecipeError(f"dim {name!r}: no input has a dimension of that name{nearest(name, known)}")
