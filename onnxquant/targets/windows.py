"""Windows of convolutions and pools, and pixels that a Resize repeats: as whole numbers, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.node import attribute

# Lengths that the pixels of a Resize are checked at where the length is not known.
_LENGTHS = range(1, 65)


# What the kernels take.
_MOST_STRIDE, _MOST_LENGTH = 16, 2048


@dataclass(frozen=True)
class Window:
    """The window that moves over an image; pairs are of the y axis and the x axis.

    Attributes:
        kernel: its size.
        strides: steps between its places.
        pads: pixels around the image: top, left, bottom, right.
        dilations: steps between its own pixels.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The window as a program has it."""
        return (*self.kernel, *self.strides, *self.pads, *self.dilations)


def window_of(
    node: onnx.NodeProto, kernel: Sequence[int], before: Sequence[int | None], after: Sequence[int | None]
) -> Window | None:
    """The window of a node on images [batch, channels, height, width].

    Args:
        node: a convolution or a pool.
        kernel: size of its window.
        before: shape of what it reads, as far as it is known.
        after: shape of what it makes, as far as it is known.

    Returns:
        the window; None where there is none of two axes, or where its pads depend on a length that is not known.
    """
    strides, dilations = (tuple(attribute(node, name, [1, 1])) for name in ("strides", "dilations"))
    pads = list(attribute(node, "pads", [0, 0, 0, 0]))
    automatic = attribute(node, "auto_pad", "NOTSET")
    if len(kernel) != 2 or len(strides) != 2 or len(dilations) != 2 or len(pads) != 4 or min(pads) < 0:
        return None
    if max(strides) > _MOST_STRIDE or max(*kernel, *dilations, *pads) > _MOST_LENGTH:
        return None
    if automatic == "VALID":
        pads = [0, 0, 0, 0]
    rounds_up = bool(attribute(node, "ceil_mode", 0))
    if automatic.startswith("SAME") or rounds_up:
        for axis in range(2):
            length, out = (shape[2 + axis] if len(shape) == 4 else None for shape in (before, after))
            if length is None or out is None:
                return None
            missing = (out - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - length
            if automatic.startswith("SAME"):
                small, large = max(missing, 0) // 2, max(missing, 0) - max(missing, 0) // 2
                pads[axis], pads[axis + 2] = (small, large) if automatic == "SAME_UPPER" else (large, small)
            else:
                if (out - 1) * strides[axis] >= length + pads[axis]:
                    # onnxruntime has no window that begins in the pads at the end; onnx's inference counts it.
                    return None
                pads[axis + 2] = max(pads[axis + 2], missing - pads[axis])
            if _places(length + pads[axis] + pads[axis + 2], kernel[axis], strides[axis], dilations[axis]) != out:
                return None
    return Window(
        (int(kernel[0]), int(kernel[1])), (strides[0], strides[1]), (pads[0], pads[1], pads[2], pads[3]),
        (dilations[0], dilations[1]),
    )  # fmt: skip


def _places(length: int, kernel: int, stride: int, dilation: int) -> int:
    return (length - (kernel - 1) * dilation - 1) // stride + 1


def repeats(node: onnx.NodeProto, factor: int, length: int | None) -> bool:
    """Whether a nearest Resize by a whole factor repeats each pixel of an axis so often.

    Args:
        node: the Resize.
        factor: the factor.
        length: pixels of the axis; None: any number.
    """
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    rounding = attribute(node, "nearest_mode", "round_prefer_floor")
    for count in (length,) if length is not None else _LENGTHS:
        places = _sources(mode, factor, count)
        if places is None or rounding not in _ROUNDINGS:
            return False
        pixels = np.clip(_ROUNDINGS[rounding](places), 0, count - 1)
        if not np.array_equal(pixels, np.arange(count * factor) // factor):
            return False
    return True


def _sources(mode: str, factor: int, count: int) -> NDArray[np.float64] | None:
    """Places in the original that the pixels of an axis are read from."""
    places = np.arange(count * factor, dtype=np.float64)
    if mode == "asymmetric":
        return places / factor
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count * factor > 1):
        return (places + 0.5) / factor - 0.5
    return None


_ROUNDINGS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
}
