"""Samples of a comparison, with the outputs of the original model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.calibration.samples import Samples, inputs_of
from onnxquant.errors import FeedError, ModelError, RecipeError, nearest
from onnxquant.graph.io import load
from onnxquant.graph.sites import find_sites
from onnxquant.passes.pipeline import prepare
from onnxquant.recipe.options import Options

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
    """

    feeds: list[feeds_.Feed]
    outputs: list[dict[str, Any]]
    origin: feeds_.SampleOrigin
    source: Samples | None = None


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
    settings = runtime.session_options(threads=options.threads, mapped=True)
    session = runtime.open_session(model, settings)
    if samples is not None:
        opened = samples.for_proof(session)
        feeds = list(opened)
        remarks = (*(opened.origin.remarks or ()), *samples.remarks(feeds, session))
        origin = replace(opened.origin, remarks=remarks or None)
        outputs = [runtime.run(session, f) for f in feeds]
        return SampledOutputs(feeds, outputs, origin, samples)
    if options.preprocess is not None:
        raise FeedError("preprocess says how samples are made of --data, which is missing")
    inputs = inputs_of(session)
    _check_dims(options, inputs)
    return _synthetic(model, session, inputs, options)


def _synthetic(model: Path, session: runtime.Session, inputs: list[feeds_.Input], options: Options) -> SampledOutputs:
    """Synthetic samples that the model accepts, and its outputs on them."""
    document = load(model, options.external_root)
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
        return SampledOutputs(feeds, outputs, synthetic.origin)
    takes = ", ".join(map(str, inputs))
    raise FeedError(
        f"{model}: no synthetic feed fits ({failure}); give --data, or lengths with --dim NAME=N; it takes {takes}"
    )


def _check_dims(options: Options, inputs: list[feeds_.Input]) -> None:
    known = sorted({d for i in inputs for d in i.shape if isinstance(d, str)})
    for name in options.dims():
        if name not in known:
            raise RecipeError(f"dim {name!r}: no input has a dimension of that name{nearest(name, known)}")
