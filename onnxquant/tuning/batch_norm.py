"""BatchNormalization that normalizes by the batch and keeps running statistics."""

from __future__ import annotations

from collections import Counter

import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from onnxquant.graph.io import Document
from onnxquant.graph.names import NameAllocator
from onnxquant.graph.node import is_op
from onnxquant.graph.traverse import names_of
from onnxquant.modules.node import Node

# Places of mean and variance among the inputs.
STATISTICS = (3, 4)


class BatchNorm(nn.Module):
    """A node that does in training mode what ``torch.nn.BatchNorm2d`` does.

    It normalizes by the statistics of the batch, and moves the running ones, which are the node's inputs, by one less the
    node's momentum. In evaluation mode and when frozen it normalizes by the running ones.

    Args:
        node: the node.

    Attributes:
        is_frozen: whether the running statistics stay as they are.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._epsilon, self._momentum = node.get("epsilon", 1e-5), 1 - node.get("momentum", 0.9)
        self.is_frozen = False

    @staticmethod
    def takes(node: Node) -> bool:
        """Whether a BatchNormalization is one of channels that are normalized by stored statistics."""
        return not node.get("training_mode", 0) and bool(node.get("spatial", 1))

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """The normalized tensor; ``mean`` and ``variance`` are changed in place."""
        learns = self.training and not self.is_frozen
        return F.batch_norm(x, mean, variance, scale, bias, learns, self._momentum, self._epsilon)


def separate_statistics(document: Document) -> None:
    """Give each BatchNormalization statistics that nothing else reads, in place: exporters store equal constants once."""
    graph = document.proto.graph
    readers = Counter(name for node in graph.node for name in node.input)
    tensors, names = {tensor.name: tensor for tensor in graph.initializer}, NameAllocator(names_of(document.proto))
    for node in graph.node:
        for place in STATISTICS if is_op(node, "BatchNormalization") else ():
            name = node.input[place]
            if name in tensors and readers[name] > 1:
                readers[name] -= 1
                copy = graph.initializer.add()
                copy.CopyFrom(tensors[name])
                copy.name = node.input[place] = names.fresh(name)
