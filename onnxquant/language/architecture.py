"""The architecture of a decoder: its sizes, and what its layers do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import log, sqrt

import numpy as np

from onnxquant.numerics.arrays import Array

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
"""Families of decoders that a graph can be built for; SmolLM is a llama."""


class Activation(StrEnum):
    """The function between the gate of a feed-forward network and its product."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


@dataclass(frozen=True)
class Rotation:
    """The rotation of queries and keys by their position.

    Attributes:
        frequencies: angle per position of each pair of channels, float64 [pairs].
        magnitude: factor of cosine and sine.
        long: the rotation of sequences that are longer than ``switch``; None: one holds for all.
        switch: positions of the longest sequence before ``long`` holds.
    """

    frequencies: Array
    magnitude: float = 1.0
    long: Rotation | None = None
    switch: int = 0

    def __eq__(self, other: object) -> bool:
        """Whether two rotations turn alike."""
        if not isinstance(other, Rotation):
            return NotImplemented
        same = np.array_equal(self.frequencies, other.frequencies) and self.magnitude == other.magnitude
        return same and self.long == other.long and self.switch == other.switch

    __hash__ = None  # type: ignore[assignment]

    def angles(self, positions: int) -> Array:
        """Angles of the first positions, float64 [positions, pairs]."""
        return np.outer(np.arange(positions), self.frequencies)


def frequencies(base: float, channels: int) -> Array:
    """The usual angles per position: ``base ** (-2 i / channels)``, float64 [channels / 2].

    Source: Su et al., RoFormer (2021), section 3.4.2.

    >>> frequencies(10000.0, 4)
    array([1.  , 0.01])
    """
    return np.asarray(1.0 / base ** (np.arange(0, channels, 2) / channels))


@dataclass(frozen=True)
class Llama3Scaling:
    """The scaling of Llama 3.1: low frequencies are divided, high ones stay, those between are mixed.

    Attributes:
        factor: divisor of low frequencies.
        low: turns in the original context below which a frequency is low.
        high: turns in it above which a frequency is high.
        context: positions of the original context.
    """

    factor: float
    low: float
    high: float
    context: int

    def scaled(self, original: Array) -> Array:
        """The scaled frequencies. Source: ``rope_type`` llama3 of Meta's llama-models."""
        turns = self.context * original / (2 * np.pi)
        share = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.asarray(share * original + (1 - share) * original / self.factor)


def long_magnitude(context: int, original: int) -> float:
    """The factor of cosine and sine of a context that was made longer. Source: Ding et al., LongRoPE (2024)."""
    return sqrt(1 + log(context / original) / log(original)) if context > original else 1.0


@dataclass(frozen=True)
class Layer:
    """One layer of a decoder: that which differs between layers.

    Attributes:
        window: number of positions that a query sees, itself among them; None: all before it.
        rotation: place of its rotation among those of the decoder.
    """

    window: int | None = None
    rotation: int = 0


@dataclass(frozen=True)
class Architecture:
    """The architecture of a decoder.

    Attributes:
        family: one of ``FAMILIES``.
        width: channels of the residual stream.
        hidden: channels inside the feed-forward network.
        heads: queries per position.
        kv_heads: keys and values per position.
        head: channels of one head.
        vocabulary: number of tokens.
        context: positions that it was trained for.
        epsilon: addend of the mean square in normalizations.
        activation: function of the gate.
        rotations: rotations that layers have.
        layers: the layers.
        scale: factor of the products of queries and keys.
        softcap: bound that tanh gives those products; 0: none.
        logit_softcap: bound that tanh gives the logits; 0: none.
        embedding_scale: factor of embeddings.
        norm_offset: addend of the stored weights of normalizations.
        has_post_norms: whether outputs of attention and feed-forward network are normalized before they are added.
        has_qk_norms: whether queries and keys of a head are normalized.
    """

    family: str
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int
    epsilon: float
    activation: Activation
    rotations: tuple[Rotation, ...]
    layers: tuple[Layer, ...]
    scale: float
    softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    has_post_norms: bool = False
    has_qk_norms: bool = False
