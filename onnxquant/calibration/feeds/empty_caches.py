"""Samples of decoders without a cache: they get an empty one, a mask of their tokens, positions, and more logits than one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.base import DTYPES, Input, Raw, SampleOrigin, Source
from onnxquant.calibration.feeds.caches import (
    LOGITS_COUNT,
    holds_positions,
    is_mask,
    is_open,
    is_source,
    is_token_ids,
    past_axis,
)
from onnxquant.calibration.feeds.facts import ModelFacts

# Inputs that choose the branch of a merged decoder.
_BRANCHES = ("use_cache_branch", "use_cache")
# Tokens of a sample whose logits are asked for: what the head reads of one token alone says little about it, and logits of
# all tokens would be hundreds of megabytes.
_LOGITS = 32


@dataclass(frozen=True)
class EmptyCache:
    """The inputs of a decoder that a sample may leave out, as they are before the first token.

    Attributes:
        ids: the input of tokens.
        past: inputs of cached keys and values.
        masks: integer inputs that mask tokens.
        positions: integer inputs that hold positions.
        counts: inputs that ask for logits of more tokens than the last one.
        branch: the input that chooses the branch of a merged decoder; None: there is none.
        head: numbers of one head of attention.
    """

    ids: Input
    past: tuple[Input, ...]
    masks: tuple[Input, ...]
    positions: tuple[Input, ...]
    counts: tuple[Input, ...]
    branch: Input | None
    head: int | None

    @property
    def names(self) -> set[str]:
        """Names of the inputs that a sample may leave out."""
        branch = [] if self.branch is None else [self.branch]
        return {spec.name for spec in (*self._plain, *branch)}

    @property
    def _plain(self) -> tuple[Input, ...]:
        """The inputs but for the branch."""
        return (*self.past, *self.masks, *self.positions, *self.counts)

    def fill(self, sample: Raw) -> Raw:
        """A sample with all inputs; itself where it has them, or tells no tokens."""
        missing = [spec for spec in self._plain if spec.name not in sample]
        without_branch = self.branch is not None and self.branch.name not in sample
        if self.ids.name not in sample or not (missing or without_branch):
            return sample
        ids = np.asarray(sample[self.ids.name])
        if ids.ndim != 2:
            return sample
        filled: dict[str, Any] = dict(sample)
        for spec in self.past:
            filled.setdefault(spec.name, self._nothing(spec, len(ids)))
        cached = np.asarray(filled[self.past[0].name]).shape[past_axis(self.past[0]) or 0]
        for spec in self.masks:
            filled.setdefault(spec.name, np.ones((len(ids), cached + ids.shape[1]), np.int64))
        for spec in self.positions:
            filled.setdefault(spec.name, _positions(filled, self.masks, ids.shape, cached))
        for spec in self.counts:
            filled.setdefault(spec.name, np.array(min(ids.shape[1], _LOGITS), np.int64))
        if self.branch is not None:
            filled.setdefault(self.branch.name, np.full([1] * len(self.branch.shape), cached > 0))
        return filled

    def _nothing(self, spec: Input, batch: int) -> NDArray[Any]:
        """Keys or values of no token."""
        tokens, last = past_axis(spec), len(spec.shape) - 1
        lengths = [
            0 if axis == tokens else dim if isinstance(dim, int) and dim > 0 else self.head if axis == last else batch
            for axis, dim in enumerate(spec.shape)
        ]
        return np.zeros([length or 0 for length in lengths], DTYPES.get(spec.element, np.float32))


def empty_cache(inputs: Sequence[Input], facts: ModelFacts) -> EmptyCache | None:
    """The inputs of a decoder that samples may leave out; None for other models.

    Args:
        inputs: inputs of the model.
        facts: facts about the model, which may tell the length of a head.
    """
    ids = next((spec for spec in inputs if is_token_ids(spec)), None)
    past = tuple(spec for spec in inputs if past_axis(spec) is not None)
    branch = next((spec for spec in inputs if spec.name in _BRANCHES and spec.type == "tensor(bool)"), None)
    # Without a branch for it, a cache of the encoder's keys and values cannot be empty.
    needs_encoder = branch is None and any(is_source(spec) for spec in past)
    if ids is None or not past or needs_encoder or not all(is_open(spec.shape[past_axis(spec) or 0]) for spec in past):
        return None
    head = _head(facts)
    if head is None and any(is_open(spec.shape[-1]) for spec in past):
        return None
    plain = [spec for spec in inputs if spec.type in ("tensor(int64)", "tensor(int32)") and len(spec.shape) == 2]
    masks = tuple(spec for spec in plain if is_mask(spec))
    positions = tuple(spec for spec in plain if holds_positions(spec))
    counts = tuple(spec for spec in inputs if spec.name == LOGITS_COUNT and spec.shape == ())
    return EmptyCache(ids, past, masks, positions, counts, branch, head)


def _head(facts: ModelFacts) -> int | None:
    """Numbers of one head of attention, by the configuration beside the model."""
    configuration = facts.table("genai_config.json", "config.json")
    entries: Mapping[str, Any] = configuration[0] if configuration else {}
    model = entries.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    entries = decoder if isinstance(decoder, dict) else entries
    head = entries.get("head_size", entries.get("head_dim"))
    width, heads = entries.get("hidden_size"), entries.get("num_attention_heads")
    if not isinstance(head, int) and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        head = width // heads
    return head if isinstance(head, int) and head > 0 else None


def _positions(
    sample: Mapping[str, Any], masks: Sequence[Input], shape: Sequence[int], cached: int
) -> NDArray[np.int64]:
    """Positions of the tokens of a call: those before it that are masked do not count."""
    mask = np.asarray(sample[masks[0].name]) if masks else np.ones((shape[0], cached + shape[1]), np.int64)
    positions: NDArray[np.int64] = np.maximum(np.cumsum(mask, -1) - 1, 0)[:, -shape[1] :].astype(np.int64)
    return positions


class WithCache:
    """The samples of another source, completed by an empty cache.

    Args:
        source: the samples.
        cache: inputs that they may leave out.
    """

    def __init__(self, source: Source, cache: EmptyCache) -> None:
        self._source, self._cache = source, cache
        self.classes = source.classes
        first = next(iter(source), None)
        is_filled = first is not None and cache.fill(first[1]) is not first[1]
        notes = (*(source.origin.assumed or ()), *(["an empty cache"] if is_filled else []))
        self.origin: SampleOrigin = replace(source.origin, assumed=notes or None)

    @property
    def files(self) -> Sequence[PurePath]:
        """The file of each sample."""
        return self._source.files

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        return ((where, self._cache.fill(sample)) for where, sample in self._source)
