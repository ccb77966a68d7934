"""The likeliest tokens of a teacher's logits: all logits of a vocabulary would be most of the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Tokens that are kept of each position; all others are one more.
_MOST = 256
_LEAST = 1e-6


@dataclass(frozen=True)
class LikelyTokens:
    """The likeliest tokens of each position, and the rest of the vocabulary as one more.

    Attributes:
        places: their ids, int32 [..., tokens].
        logs: logarithms of their probabilities, float32 [..., tokens].
        size: number of all tokens.
    """

    places: Tensor
    logs: Tensor
    size: int

    @classmethod
    def of(cls, logits: NDArray[Any]) -> Self:
        """Those of logits [..., vocabulary]."""
        values = torch.from_numpy(np.asarray(logits, np.float32))
        size = values.shape[-1]
        likely, places = values.topk(min(_MOST, size), -1)
        return cls(places.int(), likely - values.logsumexp(-1, keepdim=True), size)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several samples, along their first axis."""
        return cls(torch.cat([p.places for p in parts]), torch.cat([p.logs for p in parts]), parts[0].size)

    @property
    def shape(self) -> torch.Size:
        """The shape of the logits."""
        return torch.Size([*self.places.shape[:-1], self.size])

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.places.nbytes + self.logs.nbytes

    def divergence(self, logits: Tensor) -> Tensor:
        """The mean over positions of the Kullback-Leibler divergence of other logits from the teacher's, in nats.

        Args:
            logits: [..., vocabulary], as many positions.
        """
        logits = logits.float()
        theirs = logits.gather(-1, self.places.long()) - logits.logsumexp(-1, keepdim=True)
        result = (self.logs.exp() * (self.logs - theirs)).sum(-1)
        if self.places.shape[-1] < self.size:
            rest, their_rest = (1 - side.exp().sum(-1) for side in (self.logs, theirs))
            rest, their_rest = rest.clamp(min=_LEAST), their_rest.clamp(min=_LEAST)
            result = result + rest * (rest.log() - their_rest.log())
        return result.mean()
