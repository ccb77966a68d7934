"""Lengths of images that may vary, and which of them are certain to be equal."""

from __future__ import annotations

from collections.abc import Mapping

from onnxquant.graph.shapes import UNKNOWN, Known
from onnxquant.targets.network_steps import Step, StepKind, Unit

# A length: a number, or what it is computed from.
Length = object
# Place of the window in the numbers of a step.
_WINDOWS = {StepKind.CONVOLVE: 1, StepKind.MAX_POOL: 0, StepKind.AVERAGE_POOL: 0}


class Lengths:
    """Batch, height and width of tensors of codes. Lengths that are equal here are equal in every call.

    Args:
        shapes: types and shapes of tensors, as far as they are proven.
    """

    def __init__(self, shapes: Mapping[str, Known]) -> None:
        self._shapes = shapes
        self._made: dict[str, tuple[Length, Length, Length]] = {}

    def of(self, name: str) -> tuple[Length, Length, Length]:
        """Batch, height and width of a tensor of four axes."""
        if name in self._made:
            return self._made[name]
        known = self._shapes.get(name, UNKNOWN)
        shape, names = known.shape or (None,) * 4, known.names or ("",) * 4
        batch, _, height, width = (
            shape[axis] if shape[axis] is not None else names[axis] or (name, axis) for axis in range(4)
        )
        return batch, height, width

    def note(self, unit: Unit) -> None:
        """Follow the steps of a unit."""
        for step in unit.steps:
            self._made[step.makes] = self._after(step)

    def _after(self, step: Step) -> tuple[Length, Length, Length]:
        batch, height, width = self.of(step.reads[0])
        if step.kind is StepKind.AVERAGE:
            return batch, 1, 1
        if step.kind is StepKind.RESIZE:
            return batch, _repeated(height, step.numbers[0]), _repeated(width, step.numbers[1])
        if step.kind not in _WINDOWS:
            return batch, height, width
        first = _WINDOWS[step.kind]
        kernel_y, kernel_x, stride_y, stride_x, top, left, bottom, right, dilation_y, dilation_x = step.numbers[
            first : first + 10
        ]
        return (
            batch,
            _windows(height, top + bottom - (kernel_y - 1) * dilation_y - 1, stride_y),
            _windows(width, left + right - (kernel_x - 1) * dilation_x - 1, stride_x),
        )


def _repeated(length: Length, factor: int) -> Length:
    if factor == 1:
        return length
    return length * factor if isinstance(length, int) else ("times", length, factor)


def _windows(length: Length, more: int, stride: int) -> Length:
    """The number of places of a window: (length + more) // stride + 1."""
    if (more, stride) == (-1, 1):
        return length
    return (length + more) // stride + 1 if isinstance(length, int) else ("windows", length, more, stride)
