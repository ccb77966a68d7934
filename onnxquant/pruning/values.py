"""Other values for a constant of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.computed import unmark
from onnxquant.graph.io import Document


def set_values(document: Document, tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    """Give a constant other values of its type, perhaps in another shape; large ones outside the graph stay there."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        unmark(tensor)
        tensor.dims[:] = values.shape
        document.spill(tensor, values)
    else:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
