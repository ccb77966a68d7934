"""Samples in batches, with the teacher's outputs of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnxquant import runtime
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document

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
    outputs: Mapping[str, Tensor]


class TaughtSamples:
    """Samples and the teacher's outputs of them, in batches.

    Args:
        feeds: the samples.
        teacher: a session of the float model.
        model: that model: samples are joined where the first axes of all inputs and outputs have one name and no length.
    """

    def __init__(self, feeds: Sequence[Feed], teacher: runtime.Session, model: Document) -> None:
        self._feeds, self._teacher = feeds, teacher
        self._outputs: dict[int, Mapping[str, NDArray[Any]]] = {}
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
        return Batch(_joined([self._feeds[p] for p in places]), _joined([self._taught(p) for p in places]))

    def _taught(self, place: int) -> Mapping[str, NDArray[Any]]:
        if place in self._outputs:
            return self._outputs[place]
        outputs = {n: a for n, a in runtime.run(self._teacher, self._feeds[place]).items() if _is_float(a)}
        if not outputs:
            raise ModelError("tune: no output is a tensor of floats: there is nothing to learn from")
        nbytes = sum(array.nbytes for array in outputs.values())
        if self._nbytes + nbytes <= _KEPT:
            self._nbytes += nbytes
            self._outputs[place] = outputs
        return outputs


def _is_float(output: object) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f"


def _has_batches(model: Document) -> bool:
    """Whether samples may be joined along the first axes of inputs and outputs: all have the same name and no length."""
    graph = model.proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    values = [value for value in (*graph.input, *graph.output) if value.name not in constants]
    shapes = [value.type.tensor_type.shape.dim for value in values]
    names = {shape[0].dim_param if len(shape) and not shape[0].HasField("dim_value") else "" for shape in shapes}
    return len(names) == 1 and "" not in names


def _joined(entries: Sequence[Feed]) -> dict[str, Tensor]:
    if len(entries) == 1:
        return {name: torch.from_numpy(np.array(array)) for name, array in entries[0].items()}
    return {name: torch.from_numpy(np.concatenate([e[name] for e in entries])) for name in entries[0]}
