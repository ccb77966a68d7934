"""The distance of one decoder's predictions from those of another, and from the text: float64 sums over positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxquant.language.running.decoder import Logits, Tokens

# Rows of logits that are float64 at a time.
_ROWS = 32
# Ranges of positions whose figures a proof tells apart.
_RANGES = 8
_QUANTILE = 0.99


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class PositionRange:
    """Figures of a range of positions in the windows.

    Attributes:
        first: the first position, which is the number of tokens before the one that is predicted.
        last: the last one.
        tokens: number of tokens.
        original_perplexity: perplexity of the original.
        perplexity: that of the decoder.
        kl: mean KL divergence in nats.
        same_top: share of positions with the same most probable token.
    """

    first: int
    last: int
    tokens: int
    original_perplexity: float
    perplexity: float
    kl: Estimate
    same_top: float


@dataclass(frozen=True)
class Divergence:
    """Figures of all positions.

    Attributes:
        tokens: number of tokens that are predicted.
        original_perplexity: exp of the mean negative log probability of the tokens, by the original.
        perplexity: that of the decoder.
        perplexity_ratio: perplexity over that of the original; its error is that of the difference at each token.
        kl: mean Kullback-Leibler divergence of the decoder's distribution from the original's, in nats.
        kl_quantile: divergence that 99 % of the positions do not exceed.
        kl_largest: the largest divergence.
        same_top: share of positions whose most probable token is the same.
        probability_rms: root mean square of the difference of the probabilities that they give the tokens of the text.
        positions: the same by position in the window.
    """

    tokens: int
    original_perplexity: Estimate
    perplexity: Estimate
    perplexity_ratio: Estimate
    kl: Estimate
    kl_quantile: float
    kl_largest: float
    same_top: Estimate
    probability_rms: float
    positions: list[PositionRange]


class Comparison:
    """Figures of each position, which gather window by window; logits are not kept."""

    def __init__(self) -> None:
        self._positions: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.float64]] = []

    def add(self, original: Logits, other: Logits, targets: Tokens, first: int) -> None:
        """Compare the logits of some positions.

        Args:
            original: logits of the original [count, vocabulary].
            other: logits of the decoder [count, vocabulary].
            targets: the tokens of the text that they predict [count].
            first: position of the first of them.
        """
        for begin in range(0, len(targets), _ROWS):
            rows = slice(begin, begin + _ROWS)
            self._columns.append(_compared(original[rows], other[rows], targets[rows]))
        self._positions.append(np.arange(first, first + len(targets)))

    def result(self) -> Divergence:
        """The figures of all positions so far, of which there must be one."""
        values, positions = np.concatenate(self._columns, axis=1), np.concatenate(self._positions)
        before, after, kl, same, difference = values
        parts = np.array_split(np.unique(positions), min(_RANGES, len(np.unique(positions))))
        return Divergence(
            tokens=values.shape[1],
            original_perplexity=exp_of_mean(before),
            perplexity=exp_of_mean(after),
            perplexity_ratio=exp_of_mean(after - before),
            kl=mean(kl),
            kl_quantile=float(np.quantile(kl, _QUANTILE)),
            kl_largest=float(kl.max()),
            same_top=mean(same),
            probability_rms=float(np.sqrt((difference**2).mean())),
            positions=[_range(part, values[:, (positions >= part[0]) & (positions <= part[-1])]) for part in parts],
        )


def _compared(original: Logits, other: Logits, targets: Tokens) -> NDArray[np.float64]:
    """Figures of each position [5, count].

    They are the negative log probabilities of the target, the divergence, whether the most probable token is the same, and
    the difference of the target's probabilities.
    """
    before, after = log_probabilities(original), log_probabilities(other)
    places = np.arange(len(targets))
    probabilities = np.exp(before)
    with np.errstate(invalid="ignore"):  # logits of -inf, which have no probability
        kl = (probabilities * np.where(probabilities > 0, before - after, 0.0)).sum(-1)
    target_before, target_after = before[places, targets], after[places, targets]
    return np.stack([
        -target_before,
        -target_after,
        np.maximum(kl, 0.0),  # rounding may leave a divergence of -1e-17
        (original.argmax(-1) == other.argmax(-1)).astype(np.float64),
        np.exp(target_after) - np.exp(target_before),
    ])  # fmt: skip


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Log probabilities of all tokens [count, vocabulary], in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def mean(values: NDArray[np.float64]) -> Estimate:
    """The mean and its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return Estimate(float(values.mean()), float(error))


def exp_of_mean(values: NDArray[np.float64]) -> Estimate:
    """The exponential of the mean; its error is that of the mean times the figure."""
    middle = mean(values)
    figure = float(np.exp(middle.value))
    return Estimate(figure, figure * middle.error)


def _range(positions: Sequence[int] | NDArray[np.int64], values: NDArray[np.float64]) -> PositionRange:
    before, after, kl, same, _ = values
    return PositionRange(
        first=int(positions[0]),
        last=int(positions[-1]),
        tokens=values.shape[1],
        original_perplexity=exp_of_mean(before).value,
        perplexity=exp_of_mean(after).value,
        kl=mean(kl),
        same_top=float(same.mean()),
    )
