"""Nodes that drop axes of length one, in every opset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxquant.graph.editor import GraphEditor

_AXES_AS_INPUT = 13  # opset in which the axes of Squeeze became an input


def squeeze(editor: GraphEditor, value: str, axes: Sequence[int], base: str, opset: int) -> onnx.NodeProto:
    """A Squeeze that is in no graph yet; its constant, where it has one, is.

    Args:
        editor: the graph.
        value: tensor that loses the axes.
        axes: the axes.
        base: beginning of new names.
        opset: opset of the model.
    """
    inputs = [value]
    if opset >= _AXES_AS_INPUT:
        inputs.append(editor.add_constant(f"{base}/axes", np.array(axes, np.int64)))
    output, name = editor.names.fresh(f"{base}/squeezed"), editor.names.fresh(f"{base}/Squeeze")
    node = onnx.helper.make_node("Squeeze", inputs, [output], name=name)
    if opset < _AXES_AS_INPUT:
        node.attribute.append(onnx.helper.make_attribute("axes", list(axes)))
    return node
