"""Checks of what a proof is asked for, before any work: its metric, the outputs that it judges, and how samples are made."""

from __future__ import annotations

from collections.abc import Collection

from onnxquant.calibration import feeds
from onnxquant.errors import FeedError
from onnxquant.numerics.parts import named_part
from onnxquant.recipe.declaration import Needs, options_of
from onnxquant.recipe.options import Options
from onnxquant.validation.reference import Reference


def check_request(options: Options, reference: Reference, without_data: Collection[str]) -> None:
    """Refuse a request that a proof could not fulfil.

    Args:
        options: options of the run.
        reference: the original model.
        without_data: names of the options that the user gave beside no samples; empty where there are samples.

    Raises:
        RecipeError: the metric is no function or fails on the original, or an output that is to be judged does not exist.
        FeedError: the description of the samples is not well-formed, or there are none.
    """
    if options.metric is not None:
        _ = reference.metric  # one that fails does so before any work
    outputs = reference.document.proto.graph.output
    if all(output.type.HasField("tensor_type") for output in outputs):
        for name in options.judge:
            named_part(name, [output.name for output in outputs])
    feeds.entries(options.preprocess)
    known = options_of(Options)
    for name in without_data:
        if known[name].declared.needs is Needs.DATA:
            raise FeedError(f"{name}: has no effect without samples: give --data (data=...)")
