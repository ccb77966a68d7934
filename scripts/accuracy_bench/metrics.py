"""Figures that tasks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def log_likelihoods(logits: NDArray[np.float32], targets: Array) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities of tokens.

    Args:
        logits: [positions, vocabulary]; overwritten, because it is large.
        targets: [positions], the token that follows each.
    """
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = logits[np.arange(len(targets)), targets].astype(np.float64)
    np.exp(logits, out=logits)
    return np.asarray(chosen - np.log(logits.sum(axis=-1, dtype=np.float64)))


def perplexity(log_likelihoods: Sequence[float] | Array) -> float:
    """The exponential of the mean negative logarithm of probabilities."""
    return float(np.exp(-np.mean(log_likelihoods, dtype=np.float64)))


def ranks(values: Array) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return np.asarray((last - (counts - 1) / 2)[place])


def spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation: Pearson's, of ranks."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def cosines(first: Array, second: Array) -> NDArray[np.float64]:
    """Cosine similarity of each row with the same row of another matrix."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of characters between two texts (Levenshtein 1966)."""
    before = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        row = [i]
        for j, b in enumerate(second, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]


def greedy_text(probabilities: Array, characters: Sequence[str]) -> str:
    """The text that a CTC network reads (Graves et al. 2006): the best symbol of each step, repeats merged, blanks dropped.

    Args:
        probabilities: [steps, symbols], symbol 0 the blank.
        characters: characters of the symbols from 1 on.
    """
    return "".join(characters[int(i) - 1] for i, _ in groupby(probabilities.argmax(-1)) if i)
