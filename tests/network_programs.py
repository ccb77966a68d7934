"""A plain interpreter of the programs of IntegerNetwork, in float64: what every step must compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
KINDS = (
    "", "convolve", "map", "add", "multiply", "average", "max_pool", "average_pool", "concat", "resize", "slice",
)  # fmt: skip
# A value so close to the middle between two codes may be rounded to either in float32.
NEAR = 2e-3


@dataclass(frozen=True)
class ProgramStep:
    """One step of a program: its kind, and the numbers behind it."""

    kind: str
    tensors: tuple[int, ...]
    constants: tuple[int, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """The codes that a step makes, and the values that they were rounded from (float64, zero point added)."""

    codes: Array
    exact: Array

    def mistakes(self, codes: Array) -> int:
        """Number of codes that differ from these by more than the rounding of a value in the middle between two."""
        low, high = np.iinfo(codes.dtype).min, np.iinfo(codes.dtype).max
        inside = np.clip(self.exact, low - 1, high + 1)
        apart = np.abs(codes.astype(np.int64) - self.codes.astype(np.int64))
        middle = np.abs(np.abs(inside - np.floor(inside)) - 0.5) < NEAR
        return int(np.count_nonzero((apart > 1) | ((apart == 1) & ~middle)))


def attributes_of(call: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in call.attribute}


def steps_of(call: onnx.NodeProto) -> Iterator[ProgramStep]:
    """The steps of a call."""
    words = list(attributes_of(call)["program"])
    while words:
        kind, parts = words.pop(0), []
        for _ in range(3):
            count = words.pop(0)
            parts.append(tuple(words[:count]))
            del words[:count]
        yield ProgramStep(KINDS[kind], *parts)


class Program:
    """The program of a call, with its constants.

    Args:
        call: the node.
        constants: constants of the graph by name.
    """

    def __init__(self, call: onnx.NodeProto, constants: Mapping[str, Array]) -> None:
        attributes = attributes_of(call)
        self.inputs: int = attributes["inputs"]
        self.outputs: list[int] = list(attributes["outputs"])
        self.steps = list(steps_of(call))
        self.tables = onnx.numpy_helper.to_array(attributes["tables"]) if "tables" in attributes else None
        self._constants = {i: constants[name] for i, name in enumerate(call.input) if name in constants}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The tensors of the call's outputs."""
        tensors = list(inputs)
        for step in self.steps:
            tensors.append(self.step(step, [tensors[i] for i in step.tensors]).codes)
        return [tensors[i] for i in self.outputs]

    def step(self, step: ProgramStep, tensors: Sequence[Array]) -> Result:
        """Codes that a step computes from tensors of codes."""
        constants = [None if i < 0 else self._constants[i] for i in step.constants]
        exact = getattr(self, f"_{step.kind}")(tensors, constants, step.numbers)
        dtype = tensors[0].dtype
        return Result(exact.astype(dtype) if exact.dtype == dtype else _rounded(exact, dtype, step), exact)

    def _convolve(self, tensors: Sequence[Array], constants: Sequence[Array], numbers: Sequence[int]) -> Array:
        (x,), (w, bias, x_scale, x_zero, w_scale, y_scale, y_zero) = tensors, constants
        group, kh, kw, sy, sx, top, left, bottom, right, dy, dx = numbers[:11]
        assert w.shape[2:] == (kh, kw)
        padded = np.pad(x.astype(np.int64) - int(x_zero.reshape(())), ((0, 0), (0, 0), (top, bottom), (left, right)))
        height = (padded.shape[2] - (kh - 1) * dy - 1) // sy + 1
        width = (padded.shape[3] - (kw - 1) * dx - 1) // sx + 1
        sums = np.zeros((len(x), len(w), height, width), np.int64)
        inner, outer = x.shape[1] // group, len(w) // group
        for g in range(group):
            part, rows = padded[:, g * inner : (g + 1) * inner], w[g * outer : (g + 1) * outer].astype(np.int64)
            for ky, kx in np.ndindex(kh, kw):
                window = part[:, :, ky * dy :, kx * dx :][:, :, : (height - 1) * sy + 1 : sy, : (width - 1) * sx + 1 : sx]
                sums[:, g * outer : (g + 1) * outer] += np.einsum("mc,nchw->nmhw", rows[:, :, ky, kx], window)
        scale = np.broadcast_to(w_scale.reshape(-1), (len(w),)).astype(np.float32) * np.float32(x_scale.reshape(()))
        if bias is not None:
            codes = bias if bias.dtype == np.int32 else np.rint(bias / scale)
            sums += codes.astype(np.int64)[:, None, None]
        factor = scale / np.float32(y_scale.reshape(()))
        return sums * factor.astype(np.float64)[:, None, None] + int(y_zero.reshape(()))

    def _map(self, tensors: Sequence[Array], _: Sequence[Array], numbers: Sequence[int]) -> Array:
        (x,), (first, count) = tensors, numbers
        assert self.tables is not None
        assert count in (1, x.shape[1])
        rows = self.tables[first : first + count]
        places = x.view(np.uint8).astype(np.int64)
        channel = np.arange(count)[None, :, None, None] if count > 1 else np.zeros((1, 1, 1, 1), np.int64)
        return rows[np.broadcast_to(channel, places.shape), places].view(x.dtype)

    def _add(self, tensors: Sequence[Array], constants: Sequence[Array], _: Sequence[int]) -> Array:
        a, b, y_scale, y_zero = _pair(tensors, constants)
        assert a.shape == b.shape
        return (a + b) / y_scale + y_zero

    def _multiply(self, tensors: Sequence[Array], constants: Sequence[Array], _: Sequence[int]) -> Array:
        a, b, y_scale, y_zero = _pair(tensors, constants)
        assert b.shape in (a.shape, (*a.shape[:2], 1, 1))
        return a * b / y_scale + y_zero

    def _average(self, tensors: Sequence[Array], constants: Sequence[Array], _: Sequence[int]) -> Array:
        x_scale, x_zero, y_scale, y_zero = _numbers(constants)
        return (tensors[0].astype(np.float64) - x_zero).mean((2, 3), keepdims=True) * x_scale / y_scale + y_zero

    def _max_pool(self, tensors: Sequence[Array], _: Sequence[Array], numbers: Sequence[int]) -> Array:
        kh, kw, sy, sx, top, left, bottom, right, dy, dx = numbers
        lowest = np.iinfo(tensors[0].dtype).min
        padded = np.pad(tensors[0], ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=lowest)
        return np.max(list(_windows(padded, (kh, kw), (sy, sx), (dy, dx))), 0)

    def _average_pool(self, tensors: Sequence[Array], constants: Sequence[Array], numbers: Sequence[int]) -> Array:
        kh, kw, sy, sx, top, left, bottom, right, dy, dx, count_include_pad = numbers
        x_scale, x_zero, y_scale, y_zero = _numbers(constants)
        around = ((0, 0), (0, 0), (top, bottom), (left, right))
        values = np.pad(tensors[0].astype(np.float64) - x_zero, around)
        counted = np.pad(np.ones(tensors[0].shape), around, constant_values=count_include_pad)
        sums, counts = (np.sum(list(_windows(a, (kh, kw), (sy, sx), (dy, dx))), 0) for a in (values, counted))
        return sums / counts * x_scale / y_scale + y_zero

    def _concat(self, tensors: Sequence[Array], _: Sequence[Array], numbers: Sequence[int]) -> Array:
        parts = [x if n < 0 else self._map([x], [], (n, 1)) for x, n in zip(tensors, numbers, strict=True)]
        return np.concatenate(parts, 1)

    def _resize(self, tensors: Sequence[Array], _: Sequence[Array], numbers: Sequence[int]) -> Array:
        return tensors[0].repeat(numbers[0], 2).repeat(numbers[1], 3)

    def _slice(self, tensors: Sequence[Array], _: Sequence[Array], numbers: Sequence[int]) -> Array:
        first, end = numbers
        assert 0 <= first < end <= tensors[0].shape[1]
        return tensors[0][:, first:end]


def _numbers(constants: Sequence[Array]) -> list[float]:
    return [float(c.reshape(())) for c in constants]


def _pair(tensors: Sequence[Array], constants: Sequence[Array]) -> tuple[Array, Array, float, float]:
    """Decoded values of two tensors, and scale and zero point of what comes of them."""
    a_scale, a_zero, b_scale, b_zero, y_scale, y_zero = _numbers(constants)
    a, b = (x.astype(np.float64) for x in tensors)
    return (a - a_zero) * a_scale, (b - b_zero) * b_scale, y_scale, y_zero


def _windows(
    padded: Array, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> Iterator[Array]:
    """The pixels that each place of a window covers as it moves."""
    sizes = [(padded.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(2)]
    ends = [(size - 1) * stride + 1 for size, stride in zip(sizes, strides, strict=True)]
    for ky, kx in np.ndindex(*kernel):
        moved = padded[:, :, ky * dilations[0] :, kx * dilations[1] :]
        yield moved[:, :, : ends[0] : strides[0], : ends[1] : strides[1]]


def _rounded(exact: Array, dtype: Any, step: ProgramStep) -> Array:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if step.kind in ("convolve", "add", "multiply"):
        low, high = step.numbers[-2:]
    return np.clip(np.rint(exact), low, high).astype(dtype)
