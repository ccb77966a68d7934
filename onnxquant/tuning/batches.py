"""Samples in batches, with the teacher's outputs of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxquant import runtime
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.tuning.likely import LikelyTokens

Feed = Mapping[str, NDArray[Any]]

# Outputs of the teacher up to so many bytes are kept; else it runs again in each epoch.
_KEPT = 1 << 30


@dataclass(frozen=True)
class Batch:
    """Some samples, joined along their first axis.

    Attributes:
        feeds: inputs by name.
        outputs: the teacher's outputs by name.
    """

    feeds: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor | LikelyTokens]


class TaughtSamples:
    """Samples and the teacher's outputs of them, in batches.

    Args:
        feeds: the samples.
        teacher: a session of the float model.
        model: that model: samples are joined where the first axes of all inputs and outputs have one name and no length.
        logits: outputs that are logits of tokens: their likeliest tokens alone are kept, and no other output.
    """

    def __init__(
        self, feeds: Sequence[Feed], teacher: runtime.Session, model: Document, logits: Collection[str] = ()
    ) -> None:
        self._feeds, self._teacher, self._logits = feeds, teacher, list(logits)
        self._outputs: dict[int, Mapping[str, Tensor | LikelyTokens]] = {}
        self._nbytes = 0
        self._joins = _has_batches(model)

    def __len__(self) -> int:
        return len(self._feeds)

    def order(self, size: int, random: np.random.Generator | None = None) -> list[list[int]]:
        """The places of the samples of each batch: all samples once, in batches of samples of the same shapes.

        Args:
            size: number of samples of a batch.
            random: source of the order; None: they stay in theirs.
        """
        places = np.arange(len(self._feeds)) if random is None else random.permutation(len(self._feeds))
        waiting: dict[tuple[object, ...], list[int]] = defaultdict(list)
        size, batches = size if self._joins else 1, []
        for place in places:
            shapes = tuple(sorted((name, array.shape) for name, array in self._feeds[place].items()))
            waiting[shapes].append(int(place))
            if len(waiting[shapes]) == size:
                batches.append(waiting.pop(shapes))
        return [*batches, *waiting.values()]

    def batch(self, places: Sequence[int]) -> Batch:
        """Some samples, joined."""
        feeds, taught = [self._feeds[p] for p in places], [self._taught(p) for p in places]
        inputs = {name: _joined([torch.from_numpy(np.array(f[name])) for f in feeds]) for name in feeds[0]}
        return Batch(inputs, {name: _joined_outputs([outputs[name] for outputs in taught]) for name in taught[0]})

    def _taught(self, place: int) -> Mapping[str, Tensor | LikelyTokens]:
        if place in self._outputs:
            return self._outputs[place]
        computed = runtime.run(self._teacher, self._feeds[place], self._logits or None)
        outputs: dict[str, Tensor | LikelyTokens] = {
            name: LikelyTokens.of(array) if self._logits else torch.from_numpy(array)
            for name, array in computed.items()
            if _is_float(array)
        }
        if not outputs:
            raise ModelError("tune: no output is a tensor of floats: there is nothing to learn from")
        nbytes = sum(output.nbytes for output in outputs.values())
        if self._nbytes + nbytes <= _KEPT:
            self._nbytes += nbytes
            self._outputs[place] = outputs
        return outputs


def _is_float(output: object) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def _has_batches(model: Document) -> bool:
    """Whether samples may be joined along the first axes of inputs and outputs: all have the same name and no length.

    Scalars, such as a number of tokens, are the same in samples of the same shapes.
    """
    graph = model.proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    values = [value for value in (*graph.input, *graph.output) if value.name not in constants]
    shapes = [value.type.tensor_type.shape.dim for value in values]
    names = {"" if shape[0].HasField("dim_value") else shape[0].dim_param for shape in shapes if len(shape)}
    return len(names) == 1 and "" not in names


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The values of several samples along their first axis; a scalar is the same in all."""
    return parts[0] if len(parts) == 1 or not parts[0].dim() else torch.cat(list(parts))


def _joined_outputs(parts: Sequence[Tensor | LikelyTokens]) -> Tensor | LikelyTokens:
    likely = [part for part in parts if isinstance(part, LikelyTokens)]
    return LikelyTokens.joined(likely) if likely else _joined([part for part in parts if isinstance(part, Tensor)])
