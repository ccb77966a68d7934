"""Texts of a decoder as windows of one length, so that many of them are one step of learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxquant.calibration.feeds.base import Feed, Input
from onnxquant.calibration.feeds.empty_caches import EmptyCache, empty_cache
from onnxquant.calibration.feeds.facts import NO_FACTS

WINDOW = 256
"""Tokens of a window."""


def in_windows(feeds: Sequence[Feed], inputs: Sequence[Input], length: int = WINDOW) -> list[Feed]:
    """Samples of a decoder that ask for the logits of all their tokens.

    Texts of several lengths follow each other and are cut into windows, no longer than the longest of them; what is left
    at the end is dropped. Texts of one length stay as they are, and so do samples with a filled cache, with padding or of
    several texts.

    Args:
        feeds: the samples.
        inputs: inputs of the model; samples of one without a cache of keys and values stay as they are.
        length: tokens of a window, at most.

    Returns:
        samples with all inputs.
    """
    cache = empty_cache(inputs, NO_FACTS)
    if cache is None or not feeds:
        return list(feeds)
    ids = cache.ids.name
    if len({feed[ids].shape for feed in feeds}) > 1 and all(_is_text(feed, cache) for feed in feeds):
        tokens = np.concatenate([feed[ids] for feed in feeds], 1)
        length = min(length, max(feed[ids].shape[1] for feed in feeds))  # the model may take no longer ones
        parts = (tokens[:, begin : begin + length] for begin in range(0, tokens.shape[1] - length + 1, length))
        feeds = [_arrays(cache.fill({ids: part})) for part in parts]
    counts = {spec.name for spec in cache.counts}
    return [feed | {name: np.array(feed[ids].shape[1], np.int64) for name in counts} for feed in feeds]


def _is_text(feed: Feed, cache: EmptyCache) -> bool:
    """Whether a sample is one text from its first token on, without padding."""
    has_past = any(feed[spec.name].size for spec in cache.past)
    return len(feed[cache.ids.name]) == 1 and not has_past and all(feed[spec.name].all() for spec in cache.masks)


def _arrays(sample: Mapping[str, Any]) -> Feed:
    return {name: np.asarray(array) for name, array in sample.items()}
