"""Orders of columns for the weights of a checkpoint: columns that are stored side by side share scales.

``norm``: by the columns' L2 norm, descending. ``activation``: by the size of what each column is multiplied with, descending.
``attention``: queries, keys and values of one layer, which read the same input, share one order, by the norms of their
stacked columns; other weights take that of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxquant.errors import CheckpointError
from onnxquant.formats.matrix import chunks
from onnxquant.interchange.tensor import Tensor
from onnxquant.numerics.arrays import Array, Doubles, Order

STRATEGIES = ("norm", "activation", "attention")
# Names of the projections of common architectures: llama and its kin, GGUF, BERT, ViT, DistilBERT.
_PROJECTION = re.compile(
    r"(?P<layer>.*?)(?:attn_)?(?P<part>[qkv]|query|key|value)(?:_proj|_lin)?(?P<end>\.weight)$", re.IGNORECASE
)


@dataclass
class Orders:
    """Orders of the columns of a checkpoint's weights, found as they are asked for.

    Attributes:
        strategy: one of ``STRATEGIES``; None: the original order.
        tensors: the weights by name.
        sizes: size of what each column is multiplied with, by the name of the weight; for ``activation`` alone.
    """

    strategy: str | None
    tensors: Mapping[str, Tensor]
    sizes: Mapping[str, Array] = field(default_factory=dict)
    _shared: dict[str, Order] = field(default_factory=dict)

    def of(self, name: str, weight: Array) -> Order | None:
        """The order of a weight's columns; None: the original one.

        Raises:
            CheckpointError: the sizes of activations lack this weight, or do not fit it.
        """
        if self.strategy is None:
            return None
        if self.strategy == "activation":
            return self._by_activation(name, weight.shape[1])
        layer = _layer(name) if self.strategy == "attention" else None
        if layer is None:
            return _descending(_squares(weight))
        if layer not in self._shared:
            self._shared[layer] = self._stacked(layer, weight.shape[1])
        return self._shared[layer]

    def _by_activation(self, name: str, cols: int) -> Order:
        sizes = self.sizes.get(name)
        if sizes is None or np.shape(sizes) != (cols,):
            shown = "none" if sizes is None else f"shape {list(np.shape(sizes))}"
            raise CheckpointError(f"{name}: the sizes of what it is multiplied with are {shown}; expected [{cols}]")
        return _descending(np.abs(np.asarray(sizes, np.float64)))

    def _stacked(self, layer: str, cols: int) -> Order:
        total = np.zeros(cols, np.float64)
        for name, tensor in self.tensors.items():
            if _layer(name) == layer and tensor.matrix_shape[1] == cols:
                total += _squares(tensor.array().reshape(tensor.matrix_shape))
        return _descending(total)


def _layer(name: str) -> str | None:
    """The attention whose queries, keys or values a weight makes; None for other weights."""
    match = _PROJECTION.match(name)
    return match["layer"] if match else None


def _squares(weight: Array) -> Doubles:
    total = np.zeros(weight.shape[1], np.float64)
    for _, chunk in chunks(weight):
        total += np.square(chunk, dtype=np.float64).sum(axis=0)
    return total


def _descending(sizes: Doubles) -> Order:
    return np.argsort(-sizes, kind="stable").astype(np.int32)
