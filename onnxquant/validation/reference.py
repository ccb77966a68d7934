"""The samples of a comparison, and what the original model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.calibration.samples import Samples, inputs_of
from onnxquant.errors import FeedError, ModelError, RecipeError, nearest
from onnxquant.graph.io import load
from onnxquant.graph.sites import find
from onnxquant.passes.pipeline import prepare
from onnxquant.recipe.options import Options

Data = feeds_.Data | None


@dataclass(frozen=True)
class Reference:
    """Samples with the original's outputs.

    Attributes:
        feeds: the samples.
        outputs: one mapping of outputs by name per sample.
        about: where the samples came from.
    """

    feeds: list[feeds_.Feed]
    outputs: list[dict[str, Any]]
    about: dict[str, Any]


def _check_dims(options: Options, inputs: list[feeds_.Input]) -> None:
    known = sorted({d for i in inputs for d in i.shape if isinstance(d, str)})
    for name in options.dims():
        if name not in known:
            raise RecipeError(f"dim {name!r}: no input has a dimension of that name{nearest(name, known)}")


def reference(model: Path, samples: Samples | None, options: Options) -> Reference:
    """Run a model on the user's samples, or on synthetic ones that it accepts.

    Raises:
        ModelError: the model does not load, or fails on the user's samples.
        FeedError: the data does not fit, or no synthetic feed does.
    """
    settings = runtime.session_options(threads=options.threads, mapped=True)
    session = runtime.open_session(model, settings)
    if samples is not None:
        opened = samples.for_proof(session)
        feeds = list(opened)
        return Reference(feeds, [runtime.run(session, f) for f in feeds], opened.about)
    inputs = inputs_of(session)
    if options.preprocess is not None:
        raise FeedError("preprocess says how samples are made of --data, which is missing")
    _check_dims(options, inputs)
    document = load(model, options.external_root)
    prepare(document)
    tables = feeds_.vocabulary(document, find(document)[0])
    failure = ""
    for guess in feeds_.guesses(inputs, options.dims()):
        made = feeds_.synthetic(inputs, tables, guess, options.samples, options.seed)
        try:
            outputs = [runtime.run(session, f) for f in made]
        except ModelError as error:
            failure = failure or str(error)
            continue
        about = {"source": "synthetic", "samples": len(made), "seed": options.seed}
        about["shapes"] = {k: list(v.shape) for k, v in made[0].items()}
        return Reference(made, outputs, about)
    takes = ", ".join(map(str, inputs))
    raise FeedError(
        f"{model}: no synthetic feed fits ({failure}); give --data, or lengths with --dim NAME=N; it takes {takes}"
    )
