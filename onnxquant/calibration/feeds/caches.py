"""Inputs of decoders that keep keys and values of earlier tokens: the tokens that each axis counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from onnxquant.calibration.feeds.base import Input

LOGITS_COUNT = "logits_count"
"""Input of this package's decoders, int64 scalar: the number of last tokens with logits; 1 where it is absent."""

# Words of names of cached keys and values, and of those that come from an encoder.
_PAST, _SOURCE = ("past", "cache", "cached"), ("encoder", "cross")
# Words of names of inputs that hold the positions of tokens.
_POSITIONS = ("position", "positions", "pos")
# Integer inputs that hold a number of tokens.
_LAST_TOKEN = ("seqlens_k",)
_COUNTS_TOTAL = ("total_sequence_length", "total_seq_len", "total_seqlen")
_COUNTS_PAST = ("past_sequence_length", "past_seq_len", "past_length")
# Cached tokens of made-up samples, and lengths of a head that are tried where the model leaves it open.
_TOKENS = 16
_HEADS = (64, 128, 96, 80, 32, 256, 48, 16, 192, 112)


class Tokens(Enum):
    """The tokens that an axis counts."""

    NEW = "new"  # those of the call
    PAST = "past"  # those in the cache
    TOTAL = "total"  # both
    SOURCE = "source"  # those of the encoder
    HEAD = "head"  # none: numbers of one head


@dataclass(frozen=True)
class Cache:
    """The cache of a decoder, by the axes of its inputs.

    Attributes:
        axes: meaning of open axes, by name of the input and axis.
        past: tokens in the cache.
        new: tokens of the call; None: the model leaves it open.
        head: numbers of one head of attention, where the model leaves that open.
    """

    axes: Mapping[tuple[str, int], Tokens]
    past: int
    new: int | None = None
    head: int = _HEADS[0]

    def length(self, name: str, axis: int, open_length: int) -> int | None:
        """Length of an axis of an input.

        Args:
            name: name of the input.
            axis: the axis.
            open_length: length of axes that the model leaves open.

        Returns:
            None where the axis counts no tokens.
        """
        new = open_length if self.new is None else self.new
        lengths = {
            Tokens.NEW: new,
            Tokens.PAST: self.past,
            Tokens.TOTAL: self.past + new,
            Tokens.SOURCE: open_length,
            Tokens.HEAD: self.head,
        }
        tokens = self.axes.get((name, axis))
        return None if tokens is None else lengths[tokens]

    def filled(self) -> Cache | None:
        """The cache after some tokens; None where the model says how many tokens a call has."""
        return None if self.new is not None else replace(self, past=self.past or _TOKENS)

    def count(self, spec: Input, open_length: int) -> int | None:
        """The number of tokens that an integer input of a decoder holds; None where it holds something else."""
        name, new = spec.name.lower(), open_length if self.new is None else self.new
        if name in _LAST_TOKEN:
            return self.past + new - 1
        if name in _COUNTS_TOTAL:
            return self.past + new
        return self.past if name in _COUNTS_PAST else None


def caches(inputs: Sequence[Input], dims: Mapping[str, int]) -> list[Cache]:
    """The caches that a model's inputs may mean, the likelier first; none for a model without one.

    Args:
        inputs: inputs of the model.
        dims: lengths of named dimensions.
    """
    past = {spec.name: axis for spec in inputs if (axis := past_axis(spec)) is not None and not is_source(spec)}
    if not past:
        return []
    axes: dict[tuple[str, int], Tokens] = dict.fromkeys(past.items(), Tokens.PAST)
    axes |= {
        (spec.name, axis): Tokens.SOURCE
        for spec in inputs
        if is_source(spec) and (axis := _source_axis(spec)) is not None
    }
    heads = {
        (spec.name, len(spec.shape) - 1): Tokens.HEAD
        for spec in inputs
        if past_axis(spec) is not None and is_open(spec.shape[-1]) and spec.shape[-1] not in dims
    }
    axes |= {place: tokens for place, tokens in heads.items() if place not in axes}
    lengths = [spec.shape[past[spec.name]] for spec in inputs if spec.name in past]
    ids = [spec.shape[1] for spec in inputs if is_token_ids(spec)]
    masks = [spec for spec in inputs if is_mask(spec)]
    total = {(spec.name, len(spec.shape) - 1): Tokens.TOTAL for spec in masks}
    new = {(spec.name, len(spec.shape) - 1): Tokens.NEW for spec in masks}
    readings = [{**axes, **total}, {**axes, **new}] if masks else [axes]
    if any(isinstance(spec.shape[-1], str) and spec.shape[-1] in ids for spec in masks):
        readings.reverse()
    past_tokens, new_tokens = _length(lengths[0], dims), _length(ids[0], dims) if ids else None
    # Some graphs take several tokens with an empty cache alone.
    past_lengths = (_TOKENS, 0) if past_tokens is None else (past_tokens,)
    sizes = _HEADS if Tokens.HEAD in axes.values() else _HEADS[:1]
    return [Cache(r, tokens, new_tokens, head) for tokens in past_lengths for head in sizes for r in readings]


def holds_positions(spec: Input) -> bool:
    """Whether an integer input holds the positions of tokens.

    >>> holds_positions(Input("position_ids", "tensor(int64)", ("batch", "length")))
    True
    """
    words = [word for word in _words(spec.name) if word not in ("ids", "id", "input", "cache", "decoder")]
    return len(words) == 1 and words[0] in _POSITIONS and len(spec.shape) > 0


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def is_source(spec: Input) -> bool:
    """Whether an input comes from an encoder."""
    return any(word in _SOURCE for word in _words(spec.name))


def is_mask(spec: Input) -> bool:
    """Whether an input masks the tokens of the decoder, and its last axis is open."""
    has_tokens = len(spec.shape) > 1 and is_open(spec.shape[-1])
    return has_tokens and any("mask" in word for word in _words(spec.name)) and not is_source(spec)


def past_axis(spec: Input) -> int | None:
    """The axis of the tokens of cached keys or values; None for other inputs."""
    if "float" not in spec.type or len(spec.shape) < 3 or not any(word in _PAST for word in _words(spec.name)):
        return None
    candidates = [axis for axis, dim in enumerate(spec.shape) if axis and is_open(dim) and "batch" not in str(dim)]
    named = [axis for axis in candidates if any(word in str(spec.shape[axis]) for word in ("past", "seq", "len"))]
    plain = len(spec.shape) - 2
    return named[0] if named else plain if plain in candidates or not candidates else candidates[0]


def is_open(dim: int | str | None) -> bool:
    """Whether a model leaves the length of an axis open."""
    return not isinstance(dim, int) or dim < 1


def _source_axis(spec: Input) -> int | None:
    """The axis of the tokens of an encoder, in its states, its mask or a cache of its keys and values."""
    if (axis := past_axis(spec)) is not None:
        return axis
    return 1 if len(spec.shape) > 1 else None


def is_token_ids(spec: Input) -> bool:
    """Whether an input holds the tokens of a call."""
    return len(spec.shape) == 2 and _words(spec.name)[-2:] == ["input", "ids"]


def _length(dim: int | str | None, dims: Mapping[str, int]) -> int | None:
    """The length of an axis; None where it is open."""
    if isinstance(dim, int) and dim > 0:
        return dim
    return dims.get(dim) if isinstance(dim, str) else None
