"""A decoder's graph as a model in memory, whose weights are read from the checkpoint when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnxquant.errors import WeightError
from onnxquant.graph.external import refer, reference
from onnxquant.graph.io import Document, nbytes
from onnxquant.interchange.tensor import Checkpoint
from onnxquant.language.graph import DecoderGraph
from onnxquant.numerics.arrays import Array, in_c_order

# Location of tensors that lie in the checkpoint; no file has such a name.
_CHECKPOINT = "\x00checkpoint"


class DecoderDocument(Document):
    """A decoder's graph; ``array`` decodes a weight of the checkpoint.

    Args:
        graph: the graph.
        checkpoint: the checkpoint.
    """

    def __init__(self, graph: DecoderGraph, checkpoint: Checkpoint) -> None:
        super().__init__(graph.proto, memoryview(b""), checkpoint.path)
        self._graph, self._checkpoint = graph, checkpoint
        for tensor in graph.proto.graph.initializer:
            if tensor.name in graph.matrices:
                refer(tensor, _CHECKPOINT, 0, nbytes(tensor))

    def size(self) -> int:
        """Bytes of the checkpoint's tensors, which the model is made of."""
        return sum(tensor.nbytes for tensor in self._checkpoint.tensors.values())

    def array(self, tensor: onnx.TensorProto) -> Array:
        """Values of a tensor.

        Raises:
            WeightError: a weight of the checkpoint holds NaN or infinity, or a number that float32 does not.
        """
        if not self._is_of_checkpoint(tensor):
            return super().array(tensor)
        try:
            array = self._graph.matrices[tensor.name].floats()
        except WeightError as error:
            raise WeightError(f"{self.path}: {error}") from None
        return array.T if tensor.name in self._graph.transposed else array

    def raw(self, tensor: onnx.TensorProto) -> memoryview | None:
        """Bytes of a tensor."""
        if not self._is_of_checkpoint(tensor):
            return super().raw(tensor)
        array: Any = in_c_order(self.array(tensor)).reshape(-1).view(np.uint8)
        return memoryview(array)

    def _is_of_checkpoint(self, tensor: onnx.TensorProto) -> bool:
        is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
        return is_external and reference(tensor).location == _CHECKPOINT
