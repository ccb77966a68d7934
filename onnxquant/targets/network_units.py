"""Units of integer networks: which nodes of a graph our operator IntegerNetwork can compute, each kind by its rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxquant.graph.node import attribute, is_op
from onnxquant.graph.shapes import UNKNOWN
from onnxquant.targets.code_functions import CodeFunction, code_function
from onnxquant.targets.code_regions import CodeRegion, code_regions
from onnxquant.targets.network_ends import CLAMPS, DECODE, ENCODE, CodeReader, Codes, Decoded, Rounded, Shape
from onnxquant.targets.network_lengths import Lengths
from onnxquant.targets.network_steps import Step, StepKind, Unit
from onnxquant.targets.network_weights import bias_of, weight_of
from onnxquant.targets.windows import Window, repeats, window_of

_CHANNELS = (1, -3)
# Channels that those of a group must be a multiple of: one vector of the kernels.
_VECTOR = 16
# Repetitions of a pixel that the kernels take.
_MOST_FACTOR = 64
_MOVES = {"MaxPool": StepKind.MAX_POOL, "Resize": StepKind.RESIZE, "Slice": StepKind.SLICE}


def find_units(reader: CodeReader) -> list[Unit]:
    """The units of a graph, none of which shares a node with another but those that decode, in the order of the graph.

    Args:
        reader: reader of the graph.
    """
    return list(_Finder(reader).units())


class _Finder:
    """Finds units, node by node."""

    def __init__(self, reader: CodeReader) -> None:
        self._reader, self._editor = reader, reader.editor
        self._lengths = Lengths(reader.shapes)
        # Codes of zero of tensors whose borders are read.
        self._zeros: dict[str, int] = {}

    def units(self) -> Iterator[Unit]:
        """The units whose ends are certain to be codes of images, of one type."""
        for unit in self._possible():
            ends = (*unit.reads, *unit.makes)
            if not all(self._reader.are_codes(name) and self._reader.shape(name) for name in ends):
                continue
            if len({self._reader.shapes[name].elem_type for name in ends}) == 1:
                self._lengths.note(unit)
                yield unit

    def _possible(self) -> Iterator[Unit]:
        """The units, whatever their ends are."""
        regions = {region.output: region for region in code_regions(self._editor, every=True)}
        inside = {node.output[0] for region in regions.values() for node in region.nodes}
        for node in self._editor.nodes:
            unit: Unit | None = None
            if is_op(node, ENCODE):
                output = node.output[0]
                unit = self._map(regions[output]) if output in regions else None if output in inside else self._rounded(node)
            elif is_op(node, "Split"):
                unit = self._split(node)
            elif is_op(node, "Concat", *_MOVES) and self._reader.are_codes(node.output[0]):
                unit = self._on_codes(node)
            if unit is not None:
                yield unit

    def _map(self, region: CodeRegion) -> Unit | None:
        function = code_function(self._editor, region, self._reader.shapes.get(region.source, UNKNOWN))
        if function is None or (function.channels.count > 1 and function.channels.axis not in _CHANNELS):
            return None
        own = {name for node in region.nodes for name in node.output}
        shared = tuple(node for node in region.nodes if is_op(node, DECODE) and node.input[0] not in own)
        step = Step(StepKind.MAP, (region.source,), region.output, functions=(function,))
        return Unit((step,), region.nodes, shared)

    def _rounded(self, encoder: onnx.NodeProto) -> Unit | None:
        """The unit that ends with a QuantizeLinear."""
        y = self._reader.rounded(encoder)
        if y is None:
            return None
        node = y.source
        x = self._reader.decoded(node.input[0]) if len(node.input) else None
        if x is None:
            return None
        if is_op(node, "Conv"):
            return self._convolution(x, y)
        if is_op(node, "Add", "Mul"):
            other = self._reader.decoded(node.input[1])
            return None if other is None else self._pair(x, other, y)
        if is_op(node, "GlobalAveragePool", "ReduceMean"):
            return self._average(x, y)
        if is_op(node, "AveragePool"):
            return self._average_pool(x, y)
        if is_op(node, "Concat"):
            return self._concat(y)
        if is_op(node, *_MOVES):
            numbers = self._move_numbers(node, x.name, y.name)
            return None if numbers is None else self._moved(_MOVES[node.op_type], numbers, x, y)
        return None

    def _on_codes(self, node: onnx.NodeProto) -> Unit | None:
        """The unit of a node that reads and makes codes, and knows nothing of their scale."""
        inputs = [self._reader.codes(name) for name in (node.input if is_op(node, "Concat") else node.input[:1])]
        codes = [one.name for one in inputs if one is not None]
        if len(codes) < len(inputs):
            return None
        output = node.output[0]
        if is_op(node, "Concat"):
            step = Step(StepKind.CONCAT, tuple(codes), output, functions=(None,) * len(codes))
            is_right = attribute(node, "axis", 0) in _CHANNELS and self._have_one_batch(codes)
            return Unit((step,), (node,), ()) if is_right else None
        numbers = self._move_numbers(node, codes[0], output)
        if numbers is None:
            return None
        return Unit((Step(_MOVES[node.op_type], (codes[0],), output, numbers=numbers),), (node,), ())

    # ---- new values ----

    def _convolution(self, x: Decoded, y: Rounded) -> Unit | None:
        weight = weight_of(self._reader, y.source)
        bias = None if weight is None else bias_of(self._reader, y.source, x, weight)
        if weight is None or bias is None:
            return None
        channels, inner, height, width = (int(length) for length in weight.codes.dims)
        group = attribute(y.source, "group", 1)
        is_depthwise = group == channels and inner == 1
        if group != 1 and not is_depthwise and (inner % _VECTOR or (channels // group) % _VECTOR):
            return None
        window = window_of(y.source, (height, width), self._reader.shape(x.name), self._reader.shape(y.name))
        if window is None or not self._has_one_zero(x):
            return None
        step = Step(
            StepKind.CONVOLVE,
            (x.name,),
            y.name,
            (weight.name, bias.name, *x.scale.names, weight.scales, *y.scale.names),
            (group, *window.numbers, y.low, y.high),
        )
        shared = (x.node, *weight.nodes, *bias.nodes)
        return Unit((step,), (*shared, y.source, *y.nodes), shared)

    def _has_one_zero(self, x: Decoded) -> bool:
        """Whether the border of a tensor has the same codes for all who read it."""
        return self._zeros.setdefault(x.name, x.scale.zero) == x.scale.zero

    def _have_one_batch(self, names: Sequence[str]) -> bool:
        """Whether tensors are certain to have as many samples."""
        return len({self._lengths.of(name)[0] for name in names}) == 1

    def _pair(self, a: Decoded, b: Decoded, y: Rounded) -> Unit | None:
        """Sum or product of two tensors."""
        is_product = is_op(y.source, "Mul")
        if is_product and _is_pixel(self._reader.shape(a.name)) and not _is_pixel(self._reader.shape(b.name)):
            a, b = b, a
        one, other = self._reader.shape(a.name), self._reader.shape(b.name)
        axes = slice(1 if is_product and _is_pixel(other) else 3)
        if not one or not other or one[1] != other[1]:
            return None
        if self._lengths.of(a.name)[axes] != self._lengths.of(b.name)[axes]:
            return None
        kind = StepKind.MULTIPLY if is_product else StepKind.ADD
        constants = (*a.scale.names, *b.scale.names, *y.scale.names)
        return _unit([Step(kind, (a.name, b.name), y.name, constants, (y.low, y.high))], [a, b], [y])

    def _average(self, x: Decoded, y: Rounded) -> Unit | None:
        """Mean over an image."""
        if y.is_clamped or (is_op(y.source, "ReduceMean") and not self._is_over_images(y.source)):
            return None
        return _unit([Step(StepKind.AVERAGE, (x.name,), y.name, (*x.scale.names, *y.scale.names))], [x], [y])

    def _is_over_images(self, node: onnx.NodeProto) -> bool:
        """Whether a ReduceMean is a global average."""
        axes = attribute(node, "axes", None)
        if len(node.input) > 1 and node.input[1]:
            values = self._reader.values(node.input[1])
            axes = None if values is None else values.tolist()
        return bool(attribute(node, "keepdims", 1)) and axes is not None and sorted(a % 4 for a in axes) == [2, 3]

    def _average_pool(self, x: Decoded, y: Rounded) -> Unit | None:
        """Mean over windows. One that reaches over the edge where lengths are rounded up counts what is inside alone."""
        window = self._pool_window(y.source, x.name, y.name)
        if window is None or y.is_clamped or attribute(y.source, "ceil_mode", 0) or not self._has_one_zero(x):
            return None
        numbers = (*window.numbers, int(attribute(y.source, "count_include_pad", 0)))
        constants = (*x.scale.names, *y.scale.names)
        return _unit([Step(StepKind.AVERAGE_POOL, (x.name,), y.name, constants, numbers)], [x], [y])

    # ---- values that are passed on ----

    def _concat(self, y: Rounded) -> Unit | None:
        """Tensors joined by channels, each brought to the scale of the output."""
        inputs = [x for name in y.source.input if (x := self._reader.decoded(name)) is not None]
        if attribute(y.source, "axis", 0) not in _CHANNELS or len(inputs) < len(y.source.input):
            return None
        if not self._have_one_batch([x.name for x in inputs]):
            return None
        functions = [None if y.keeps(x) else self._rescaling(x, y) for x in inputs]
        if any(function is None and not y.keeps(x) for x, function in zip(inputs, functions, strict=True)):
            return None
        step = Step(StepKind.CONCAT, tuple(x.name for x in inputs), y.name, functions=tuple(functions))
        return _unit([step], inputs, [y])

    def _moved(self, kind: StepKind, numbers: tuple[int, ...], x: Decoded, y: Rounded) -> Unit | None:
        """A step that passes codes on, and a table behind it where they are rounded to another scale."""
        steps = self._moving_steps(Step(kind, (x.name,), y.name, numbers=numbers), x, y)
        return None if steps is None else _unit(steps, [x], [y])

    def _moving_steps(self, step: Step, x: Decoded, y: Rounded) -> list[Step] | None:
        if y.keeps(x):
            return [step]
        function = self._rescaling(x, y)
        if function is None:
            return None
        between = f"{y.name}/moved"
        return [replace(step, makes=between), Step(StepKind.MAP, (between,), y.name, functions=(function,))]

    def _rescaling(self, x: Decoded, y: Rounded) -> CodeFunction | None:
        """The function of a code that decoding, clamps and rounding are without the node in between."""
        if x.scale.code_type != y.scale.code_type:
            return None
        first = onnx.NodeProto()
        first.CopyFrom(y.nodes[0])
        first.input[0] = x.node.output[0]
        region = CodeRegion(x.name, y.name, (x.node, first, *y.nodes[1:]), x.scale.code_type)
        return code_function(self._editor, region, UNKNOWN)

    def _move_numbers(self, node: onnx.NodeProto, before: str, after: str) -> tuple[int, ...] | None:
        if is_op(node, "MaxPool"):
            window = None if any(node.output[1:]) else self._pool_window(node, before, after)
            return None if window is None else window.numbers
        return self._factors(node, before) if is_op(node, "Resize") else self._cut(node, before)

    def _pool_window(self, node: onnx.NodeProto, before: str, after: str) -> Window | None:
        shapes = (self._reader.shape(name) for name in (before, after))
        return window_of(node, attribute(node, "kernel_shape", []), *shapes)

    def _factors(self, node: onnx.NodeProto, before: str) -> tuple[int, ...] | None:
        """Repetitions of each pixel in y and x by a nearest Resize."""
        if attribute(node, "mode", "nearest") != "nearest" or attribute(node, "axes", None) is not None:
            return None
        shape = self._reader.shape(before)
        scales, sizes = (self._reader.values(name) if name else None for name in (*node.input[2:4], "", "")[:2])
        if scales is not None and scales.size == 4:
            ratios = scales.astype(np.float64).tolist()
        elif sizes is not None and sizes.size == 4 and all(shape):
            if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
                return None
            ratios = [out / length for out, length in zip(sizes.tolist(), shape, strict=True) if length]
        else:
            return None
        if not shape or len(ratios) != 4 or ratios[:2] != [1, 1] or any(r != int(r) or r < 1 for r in ratios[2:]):
            return None
        factors = (int(ratios[2]), int(ratios[3]))
        if max(factors) > _MOST_FACTOR:
            return None
        repeated = (repeats(node, factor, length) for factor, length in zip(factors, shape[2:], strict=True))
        return factors if all(repeated) else None

    def _cut(self, node: onnx.NodeProto, before: str) -> tuple[int, ...] | None:
        """The channels that a Slice takes: the first, and the one behind the last."""
        shape = self._reader.shape(before)
        values = [self._reader.values(name) for name in node.input[1:5] if name]
        if not shape or len(node.input) < 4 or not all(node.input[1:4]):
            return None
        numbers = [int(value.reshape(-1)[0]) for value in values if value is not None and value.size == 1]
        if len(numbers) < len(values):
            return None
        begin, end, axis, stride = (*numbers, 1)[:4]
        if axis not in _CHANNELS or stride != 1:
            return None
        first, last, _ = slice(begin, end).indices(shape[1] or 0)
        return (first, last) if first < last else None

    def _split(self, node: onnx.NodeProto) -> Unit | None:
        """The slices of a Split by channels: of codes, or of values that are all rounded."""
        codes, x = self._reader.codes(node.input[0]), self._reader.decoded(node.input[0])
        source: Codes | Decoded | None = codes or x
        sizes = self._part_sizes(node, source.name) if source else None
        if source is None or sizes is None:
            return None
        steps, outputs, first = list[Step](), list[Rounded](), 0
        for name, size in zip(node.output, sizes, strict=True):
            step = Step(StepKind.SLICE, (source.name,), name, numbers=(first, first + size))
            first += size
            if x is None:
                steps.append(step)
                continue
            y = self._rounded_after(name)
            moving = self._moving_steps(replace(step, makes=y.name), x, y) if y else None
            if y is None or moving is None:
                return None
            steps += moving
            outputs.append(y)
        return _unit(steps, [x], outputs) if x else Unit(tuple(steps), (node,), ())

    def _rounded_after(self, name: str) -> Rounded | None:
        """Codes that values are rounded to, behind clamps."""
        reader = self._editor.single_consumer(name)
        while reader is not None and is_op(reader, *CLAMPS):
            reader = self._editor.single_consumer(reader.output[0])
        return self._reader.rounded(reader) if reader is not None and is_op(reader, ENCODE) else None

    def _part_sizes(self, node: onnx.NodeProto, before: str) -> list[int] | None:
        """Channels of each output of a Split by channels."""
        shape, count = self._reader.shape(before), len(node.output)
        if not shape or attribute(node, "axis", 0) not in _CHANNELS or not all(node.output):
            return None
        channels, sizes = shape[1] or 0, attribute(node, "split", None)
        if len(node.input) > 1 and node.input[1]:
            values = self._reader.values(node.input[1])
            if values is None:
                return None
            sizes = values.tolist()
        if sizes is None:
            most = -(-channels // count)
            sizes = [min(most, channels - most * i) for i in range(count)]
        return sizes if len(sizes) == count and min(sizes) > 0 and sum(sizes) == channels else None


def _unit(steps: Sequence[Step], inputs: Sequence[Decoded], outputs: Sequence[Rounded]) -> Unit:
    """The unit of a node, with those that decode what it reads and round what it computes."""
    shared = tuple({id(x.node): x.node for x in inputs}.values())
    return Unit(tuple(steps), (*shared, outputs[0].source, *(n for y in outputs for n in y.nodes)), shared)


def _is_pixel(shape: Shape) -> bool:
    """Whether images have one pixel."""
    return shape[2:] == (1, 1)
