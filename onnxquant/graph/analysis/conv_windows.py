"""Input windows of a Conv at some of its output positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.node import attribute


def windows(
    node: onnx.NodeProto,
    values: NDArray[Any],
    shape: Sequence[int],
    choose: Callable[[int], NDArray[np.intp]],
    fill: int = 0,
) -> NDArray[Any]:
    """Input windows of a Conv of any rank: [positions, kernel positions, channels].

    Args:
        node: the Conv.
        values: input of the Conv [samples, channels, ...].
        shape: shape of its weight.
        choose: function that gives some output positions, by their number over all samples.
        fill: value of padding.
    """
    kernel, space = np.array(shape[2:], np.intp), np.array(values.shape[2:], np.intp)
    rank = len(kernel)
    strides = np.array(attribute(node, "strides", [1] * rank))
    dilations = np.array(attribute(node, "dilations", [1] * rank))
    extent = dilations * (kernel - 1) + 1
    before, after = _pads(node, space, extent, strides)
    size = (space + before + after - extent) // strides + 1
    padded = np.pad(values, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=fill)
    chosen = choose(len(values) * int(size.prod()))
    image, *corner = np.unravel_index(chosen, (len(values), *size))
    taps = np.stack(np.unravel_index(np.arange(kernel.prod()), kernel), 1) * dilations
    at = (np.stack(corner, 1) * strides)[:, None] + taps
    flat = np.ravel_multi_index(tuple(np.moveaxis(at, -1, 0)), padded.shape[2:])
    read: NDArray[Any] = padded.reshape(*values.shape[:2], -1)[image[:, None], :, flat]
    return read


def _pads(
    node: onnx.NodeProto, space: NDArray[Any], extent: NDArray[Any], strides: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Padding before and after each spatial axis."""
    kind = attribute(node, "auto_pad", "NOTSET")
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        total = np.maximum((-(-space // strides) - 1) * strides + extent - space, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if kind == "SAME_UPPER" else (more, less)
    none = [0] * (2 * len(space))
    pads = np.array(attribute(node, "pads", none) if kind == "NOTSET" else none)
    return pads[: len(space)], pads[len(space) :]
