"""The architecture of a decoder: its sizes, and what its layers do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import log, sqrt

import numpy as np

from onnxquant.errors import CheckpointError, RecipeError
from onnxquant.numerics.arrays import Array

# Layers of which the last one sees all positions.
PERIODS = {"gemma2": 2, "gemma3": 6}
# Channels of the largest head, and the largest frequency and magnitude of a rotation: beyond these numbers are damage.
MOST_CHANNELS = 1 << 14
_LARGEST_FREQUENCY, _LARGEST_MAGNITUDE = 1e6, 1e3
# Positions times pairs of the largest table of rotations: a quarter of a gigabyte.
_MOST_ANGLES = 1 << 26


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

    def __post_init__(self) -> None:
        """Check the numbers, which come from files.

        Raises:
            CheckpointError: a frequency or the magnitude is no number above 0, or beyond any rotation.
        """
        wrong = ~((self.frequencies > 0) & (self.frequencies <= _LARGEST_FREQUENCY))
        if wrong.any():
            raise CheckpointError(
                f"the rotation of positions has the frequency {self.frequencies[wrong][0]:.4g}; expected a number above 0, "
                f"{_LARGEST_FREQUENCY:g} at most: are its base and its scaling (rope) right?"
            )
        if not 0 < self.magnitude <= _LARGEST_MAGNITUDE:
            raise CheckpointError(
                f"the rotation of positions has the magnitude {self.magnitude:.4g}; expected a number above 0, "
                f"{_LARGEST_MAGNITUDE:g} at most: is its factor of attention right?"
            )

    def angles(self, positions: int) -> Array:
        """Angles of the first positions, float64 [positions, pairs].

        Raises:
            RecipeError: there are too many.
        """
        if positions * len(self.frequencies) > _MOST_ANGLES:
            most = _MOST_ANGLES // len(self.frequencies)
            raise RecipeError(
                f"{positions} positions: rotations of at most {most} are stored; give fewer with --context"
            )
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
        original_length: positions of the context before it was made longer.
    """

    factor: float
    low: float
    high: float
    original_length: int

    def scaled(self, original: Array) -> Array:
        """The scaled frequencies. Source: ``rope_type`` llama3 of Meta's llama-models."""
        turns = self.original_length * original / (2 * np.pi)
        share = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.asarray(share * original + (1 - share) * original / self.factor)


def long_magnitude(length: int, original_length: int) -> float:
    """The factor of cosine and sine of a context that was made longer. Source: Ding et al., LongRoPE (2024)."""
    if length <= original_length:
        return 1.0
    return sqrt(1 + log(length / original_length) / log(original_length))


@dataclass(frozen=True)
class Layer:
    """One layer of a decoder: that which differs between layers.

    Attributes:
        sliding_window: number of positions that a query sees, itself among them; None: all before it.
        rotation: place of its rotation among those of the decoder.
    """

    sliding_window: int | None = None
    rotation: int = 0


@dataclass(frozen=True)
class Architecture:
    """The architecture of a decoder; sizes have transformers' names.

    Attributes:
        family: name of the family, such as llama.
        hidden_size: channels of the residual stream.
        intermediate_size: channels inside the feed-forward network.
        heads: queries per position.
        kv_heads: keys and values per position.
        head_dim: channels of one head.
        vocabulary: number of tokens.
        context_length: positions that it was trained for.
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
        is_tied: whether the embedding is the matrix that gives the logits, too.
    """

    family: str
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_length: int
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
    is_tied: bool = False

    def check(self, place: str) -> None:
        """Refuse sizes that no decoder has.

        Args:
            place: the file that says them, for messages.

        Raises:
            CheckpointError: they do not suit each other.
        """
        if self.heads % self.kv_heads:
            raise CheckpointError(
                f"{place}: {self.heads} heads share {self.kv_heads} keys; expected a divisor of the heads"
            )
