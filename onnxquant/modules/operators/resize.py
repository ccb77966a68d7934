"""Tensors with more or fewer elements along their axes: nearest, linear and cubic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np
import torch
from torch import Tensor

from onnxquant.modules.node import Node, operator
from onnxquant.modules.numbers import integers
from onnxquant.numerics.arrays import Array


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized.

    Attributes:
        axis: its place.
        length: elements before.
        size: elements behind.
        scale: factor of the coordinates.
        start: begin of the part that is read, as a share of the axis.
        end: end of that part.
    """

    axis: int
    length: int
    size: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _coordinates(node: Node, axis: _Axis) -> Array:
    """Places between the elements of the input that the elements of the output stand at, in float32 as onnxruntime."""
    mode = node.get("coordinate_transformation_mode", "half_pixel" if node.opset > 10 else "asymmetric")
    places, scale, last = np.arange(axis.size, dtype=np.float32), np.float32(axis.scale), np.float32(axis.length - 1)
    if mode == "asymmetric":
        return places / scale
    if mode == "align_corners":
        return places * last / np.float32(max(axis.size - 1, 1))
    if mode == "tf_crop_and_resize":
        start, end = np.float32(axis.start), np.float32(axis.end)
        if axis.size == 1:
            return np.full(1, (start + end) / 2 * last, np.float32)
        return start * last + places * ((end - start) * last / np.float32(axis.size - 1))
    centers = (places + np.float32(0.5)) / scale
    if mode == "tf_half_pixel_for_nn":
        return centers
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and axis.size > 1):
        return centers - np.float32(0.5)
    if mode == "pytorch_half_pixel":
        return np.zeros(1, np.float32)
    if mode == "half_pixel_symmetric":
        middle = axis.length / 2 * (1 - axis.size / (axis.scale * axis.length))
        return centers - np.float32(0.5) + np.float32(middle)
    raise node.refuse(f"coordinate_transformation_mode is {mode!r}", "one that ONNX defines")


def _nearest(node: Node, places: Array, axis: _Axis) -> Array:
    """Indices of the nearest elements."""
    mode = node.get("nearest_mode", "round_prefer_floor" if node.opset > 10 else "simple")
    if mode == "simple":
        mode = "ceil" if axis.scale < 1 else "floor"
    rounded = {
        "round_prefer_floor": lambda: np.ceil(places - np.float32(0.5)),
        "round_prefer_ceil": lambda: np.floor(places + np.float32(0.5)),
        "floor": lambda: np.floor(places),
        "ceil": lambda: np.ceil(places),
    }[mode]()
    return np.asarray(np.clip(rounded, 0, axis.length - 1).astype(np.int64))


def _triangle(distances: Array) -> Array:
    """The filter of linear interpolation."""
    return np.asarray(np.maximum(1 - np.abs(distances), 0))


def _cubic(distances: Array, a: float) -> Array:
    """The filter of cubic interpolation."""
    d = np.abs(distances)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


@dataclass(frozen=True)
class _Taps:
    """The elements that each element of an output is a weighted sum of.

    Attributes:
        indices: their places [output, taps].
        weights: their weights.
    """

    indices: Array
    weights: Array


def _taps(node: Node, places: Array, axis: _Axis) -> _Taps:
    """The elements around places, weighted by a filter."""
    is_cubic = node.get("mode", "nearest") == "cubic"
    factor = min(axis.scale, 1.0) if node.get("antialias", 0) else 1.0
    reach = int(np.ceil((2 if is_cubic else 1) / factor))
    indices = np.floor(places).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    distances = (indices - places[:, None].astype(np.float64)) * factor
    weights = _cubic(distances, node.get("cubic_coeff_a", -0.75)) if is_cubic else _triangle(distances)
    if node.get("exclude_outside", 0):
        weights = np.where((indices < 0) | (indices >= axis.length), 0, weights)
    total = weights.sum(1, keepdims=True)
    return _Taps(np.clip(indices, 0, axis.length - 1), weights / np.where(total == 0, 1, total))


def _resized(node: Node, x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    is_cropped = node.get("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    outside = torch.zeros(1, dtype=torch.bool)
    for axis in axes:
        if axis.size == axis.length and axis.scale == 1 and not is_cropped:
            continue
        places = _coordinates(node, axis)
        along = [1] * axis.axis + [-1] + [1] * (x.dim() - axis.axis - 1)
        if is_cropped:
            outside = outside | torch.from_numpy((places < 0) | (places > axis.length - 1)).reshape(along)
        if node.get("mode", "nearest") == "nearest":
            x = x.index_select(axis.axis, torch.from_numpy(_nearest(node, places, axis)))
            continue
        taps = _taps(node, places, axis)
        x = sum(
            x.index_select(axis.axis, torch.from_numpy(np.ascontiguousarray(indices)))
            * torch.from_numpy(weights).to(x.dtype).reshape(along)
            for indices, weights in zip(taps.indices.T, taps.weights.T, strict=True)
        )  # type: ignore[assignment]  # there is a tap
    if is_cropped:
        return torch.where(outside, torch.tensor(node.get("extrapolation_value", 0.0), dtype=x.dtype), x)
    return x


def _sized(node: Node, axes: Sequence[_Axis], sizes: Sequence[int]) -> list[_Axis]:
    """Axes of these sizes, or of those that keep the ratio of the axes."""
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    scales = [size / axis.length for size, axis in zip(sizes, axes, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales, sizes = [scale] * len(axes), [floor(scale * axis.length + 0.5) for axis in axes]
    return [replace(axis, size=size, scale=s) for axis, size, s in zip(axes, sizes, scales, strict=True)]


@operator("Resize", numbers=(1, 2, 3))
def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """A tensor with other sizes, which are given, or factors of them are."""
    if node.opset < 11:
        roi, scales = None, roi
    chosen = [axis % x.dim() for axis in node.get("axes", list(range(x.dim())))]
    axes = [_Axis(axis, x.shape[axis], x.shape[axis], 1.0) for axis in chosen]
    if roi is not None and roi.numel():
        bounds = roi.tolist()
        axes = [replace(axis, start=bounds[i], end=bounds[i + len(axes)]) for i, axis in enumerate(axes)]
    if sizes is not None and sizes.numel():
        axes = _sized(node, axes, integers(sizes))
    elif scales is not None:
        # A product in float32, as onnxruntime has it: 0.6 of 5 is 3 there.
        factors = scales.float().numpy()
        axes = [
            replace(axis, size=floor(np.float32(axis.length) * factor), scale=float(factor))
            for axis, factor in zip(axes, factors, strict=True)
        ]
    return _resized(node, x, axes)


@operator("Upsample", numbers=(1,))
def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """A tensor with sizes times factors, which are an attribute in opset 7."""
    factors = torch.tensor(node.get("scales", [1.0] * x.dim())) if scales is None else scales
    early = replace(node, opset=10, attributes={"mode": node.get("mode", "nearest")})
    return resize(early, x, factors)
