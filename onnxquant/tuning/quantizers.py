"""Modules that round: a weight to its grid, an activation to its codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from onnxquant.formats.base import Encoded
from onnxquant.formats.grid import LevelGrid, nearest_indices
from onnxquant.graph.needs import View
from onnxquant.modules.node import OPERATORS, Node
from onnxquant.observers.codes import Codes
from onnxquant.tuning.range_observer import MovingMinMaxObserver
from onnxquant.tuning.rounding import fake_quantize, is_even, nearest_levels, round_to_levels

# A learned step stays within this factor of where it began.
_MOST_CHANGE = 8.0
# Steps of groups whose weights are all zero: any small one does.
_LEAST_STEP = 1e-20


@dataclass(frozen=True)
class Learned:
    """A parameter with the unit of its changes.

    Attributes:
        values: the parameter.
        unit: a change that is neither small nor large, in a shape that broadcasts against the values.
        of_quantizer: whether it is a step, shift, scale or zero point, in place of a number of the model.
    """

    values: nn.Parameter
    unit: Tensor
    of_quantizer: bool = False


class WeightQuantizer(nn.Module):
    """Rounds a weight to the grid of an encoded one.

    Args:
        encoded: the weight where learning begins; its format has a grid.
        view: the matrix that the format sees of the tensor.
        staying: 0 where a weight was pruned, else 1, in the shape of the tensor; None: nothing was pruned.

    Attributes:
        is_on: whether it rounds; else the weight passes as it is.
    """

    step: Tensor
    shift: Tensor
    levels: Tensor
    finer_levels: Tensor
    order: Tensor | None
    first_step: Tensor
    staying: Tensor | None

    def __init__(self, encoded: Encoded, view: View, staying: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("staying", staying, persistent=False)
        self.encoded, self.view, self.is_on = encoded, view, True
        grid = encoded.format.grid(encoded)
        self._group = encoded.cols if grid.of_tensor else grid.group
        self.register_buffer("levels", torch.from_numpy(np.array(grid.levels, np.float32)))
        self.register_buffer("finer_levels", self.levels, persistent=False)
        self._parts = 1
        order = encoded.planes.get("permutation")
        self.register_buffer("order", None if order is None else torch.from_numpy(np.array(order, np.int64)))
        step, shift = (torch.from_numpy(np.array(side, np.float32))[..., None] for side in (grid.step, grid.shift))
        step = torch.where(step == 0, torch.full_like(step, _LEAST_STEP), step)
        self._learns_step = not encoded.format.why_scales_fixed and grid.groups_sharing_a_scale == 1
        self._learns_shift = self._learns_step and encoded.format.shifts
        for name, values, is_learned in (("step", step, self._learns_step), ("shift", shift, self._learns_shift)):
            if is_learned:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)
        # A shift that is a multiple of the step follows it.
        self._shift_in_steps = None if self._learns_shift or not self._learns_step else shift / step
        self.register_buffer("first_step", step.clone(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its grid, in the shape of the tensor."""
        if not self.is_on:
            return self._pruned(weight)
        groups = self._groups(self._matrix(weight))
        step, shift = self._side(groups)
        if self._parts > 1:
            step = step / self._parts
        rounded = round_to_levels(groups, step, shift, self.finer_levels)
        # A learned shift is a whole number of steps in the file alone: meanwhile zero need not be among the levels.
        return self._pruned(self._tensor(rounded).to(weight.dtype))

    def _pruned(self, weight: Tensor) -> Tensor:
        """The weight with zeros where it was pruned: no gradient passes there."""
        return weight if self.staying is None else weight * self.staying

    @property
    def bits(self) -> int:
        """Bits of the codes of the format's own grid."""
        return (len(self.levels) - 1).bit_length()

    @property
    def refined(self) -> int:
        """Bits of the codes of the grid that it rounds on."""
        return self.bits + self._parts.bit_length() - 1

    def refine(self, bits: int) -> None:
        """Round on a finer grid of the same range from now on: distances of levels are divided.

        Args:
            bits: least bits of a code; the format's own or fewer: its own grid.
        """
        parts = 1 << max(bits - self.bits, 0)
        if parts != self._parts:
            places = np.arange((len(self.levels) - 1) * parts + 1) / parts
            finer = np.interp(places, np.arange(len(self.levels)), self.levels.numpy().astype(np.float64)) * parts
            self.finer_levels, self._parts = torch.from_numpy(finer.astype(np.float32)), parts

    def _side(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        shift = self.shift if self._shift_in_steps is None else self._shift_in_steps * self.step
        if self.step.shape[:2] == (1, 1):
            return self.step, shift
        return self.step[:, : groups.shape[1]], shift[:, : groups.shape[1]]

    def _matrix(self, weight: Tensor) -> Tensor:
        matrix = weight.permute(self.view.perm).reshape(self.view.rows, self.view.cols)
        return matrix if self.order is None else matrix[:, self.order]

    def _groups(self, matrix: Tensor) -> Tensor:
        """The matrix as [rows, groups, columns], filled up with zeros."""
        padding = -matrix.shape[1] % self._group
        padded = F.pad(matrix, (0, padding)) if padding else matrix
        return padded.reshape(matrix.shape[0], -1, self._group)

    def _tensor(self, groups: Tensor) -> Tensor:
        matrix = groups.reshape(self.view.rows, -1)[:, : self.view.cols]
        if self.order is not None:
            matrix = torch.empty_like(matrix).index_copy(1, self.order, matrix)
        return matrix.reshape(self.view.permuted).permute(self.view.inverse)

    @torch.no_grad()
    def start(self, weight: Tensor) -> Tensor:
        """The float weight nearest to one that rounds to the codes where learning begins.

        Args:
            weight: the float weight that the codes were chosen for.
        """
        values = self.view.restore(self.encoded.format.decode(self.encoded))
        decoded = self._groups(self._matrix(torch.from_numpy(values)))
        step, shift = self._side(decoded)
        level = nearest_levels(self.levels, (decoded - shift) / step)
        low, high = self._cell(level)
        ratio = torch.clamp((self._groups(self._matrix(weight)) - shift) / step, low, high)
        return self._tensor(ratio * step + shift).contiguous()

    def _cell(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the numbers that round to a level, a little inside."""
        if is_even(self.levels):
            return level - 0.49, level + 0.49
        ends = torch.cat([self.levels[:1] * 1.05 - 0.01, self.levels[-1:] * 1.05 + 0.01])
        middles = torch.cat([ends[:1], (self.levels[1:] + self.levels[:-1]) / 2, ends[1:]])
        index = torch.bucketize(level, self.levels).clamp_(max=len(self.levels) - 1)
        gap = (middles[1:] - middles[:-1])[index] * 0.01
        return middles[index] + gap, middles[index + 1] - gap

    def learned(self) -> Iterator[Learned]:
        """Its own parameters."""
        if self._learns_step:
            assert isinstance(self.step, nn.Parameter)
            yield Learned(self.step, self.first_step.abs(), of_quantizer=True)
        if self._learns_shift:
            assert isinstance(self.shift, nn.Parameter)
            yield Learned(self.shift, self.first_step.abs(), of_quantizer=True)

    def unit(self, weight: Tensor) -> Tensor:
        """The unit of changes of the weight: the root mean square of each row."""
        matrix = weight.detach().permute(self.view.perm).reshape(self.view.rows, self.view.cols)
        rms = matrix.square().mean(1, keepdim=True).sqrt().clamp_(min=1e-12)
        return torch.from_numpy(self.view.row_vector(rms.numpy()).copy())

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the steps in bounds."""
        if self._learns_step:
            least, most = self.first_step.abs() / _MOST_CHANGE, self.first_step.abs() * _MOST_CHANGE
            self.step.copy_(torch.sign(self.first_step) * torch.clamp(self.step * torch.sign(self.first_step), least, most))

    def encode(self, weight: Tensor) -> Encoded:
        """The encoded weight that was learned: codes nearest to the weight, on the grid nearest to the learned one.

        Args:
            weight: the float weight.
        """
        encoded, form = self.encoded, self.encoded.format
        if self._learns_step:
            step, shift = (side.detach()[..., 0].numpy() for side in self._side(self._groups(self._matrix(weight))))
            encoded = form.fit(encoded, step, shift)
        grid: LevelGrid = form.grid(encoded)
        return form.place(encoded, nearest_indices(grid, self._matrix(self._pruned(weight.detach())).numpy()))


class ActivationQuantizer(nn.Module):
    """Rounds an activation to codes of a scale and a zero point that are learned, or follow the data.

    Args:
        codes: type of the codes.
        low: lowest value of the range where learning begins.
        high: highest value.
        momentum: weight of each call in moving averages of the extremes that set scale and zero point; None: these learn.

    Attributes:
        is_on: whether it rounds.
        observer: the range that follows the data.
    """

    def __init__(self, codes: Codes, low: float, high: float, momentum: float | None = None) -> None:
        super().__init__()
        self.codes, self.is_on = codes, True
        self.observer = None if momentum is None else MovingMinMaxObserver(momentum, codes)
        if self.observer is not None:
            self.observer.begin(low, high)
        scale, zero = codes.parameters(low, high)
        self.scale = nn.Parameter(torch.tensor([float(scale)]))
        self.zero_point = nn.Parameter(torch.tensor([float(zero)]), requires_grad=not codes.symmetric)
        self._first_scale = float(scale)

    def forward(self, values: Tensor) -> Tensor:
        """The values on the grid of the codes."""
        if self.observer is not None:
            self._follow(self.observer, values)
        if not self.is_on:
            return values
        return fake_quantize(values, self.scale, self.zero_point, self.codes.lowest, self.codes.highest)

    @torch.no_grad()
    def _follow(self, observer: MovingMinMaxObserver, values: Tensor) -> None:
        observer(values)
        scale, zero = self.codes.parameters(*observer.range)
        self.scale.fill_(float(scale))
        self.zero_point.fill_(float(zero))

    def learned(self) -> Iterator[Learned]:
        """Its parameters, unless they follow the data."""
        if self.observer is not None:
            return
        yield Learned(self.scale, torch.tensor([self._first_scale]), of_quantizer=True)
        if not self.codes.symmetric:
            unit = torch.tensor([float(1 << (self.codes.bits - 3))])
            yield Learned(self.zero_point, unit, of_quantizer=True)

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the scale and the zero point in bounds, where they learn."""
        if self.observer is not None:
            return
        self.scale.clamp_(self._first_scale / _MOST_CHANGE, self._first_scale * _MOST_CHANGE)
        self.zero_point.clamp_(self.codes.lowest, self.codes.highest)

    @property
    def range(self) -> tuple[float, float]:
        """The range whose scale and zero point these are."""
        if self.observer is not None:
            return self.observer.range
        scale, codes = float(self.scale.detach()), self.codes
        if codes.symmetric:
            largest = scale * ((1 << (codes.bits - 1)) - 1)
            return -largest, largest
        zero = round(float(self.zero_point.detach()))
        return (codes.lowest - zero) * scale, (codes.highest - zero) * scale


class DynamicQuantizer(nn.Module):
    """Rounds an activation to unsigned 8-bit codes whose range is that of its values in this call, and zero.

    Attributes:
        is_on: whether it rounds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_on = True

    def forward(self, values: Tensor) -> Tensor:
        """The values on the grid of the codes; gradients pass as they are."""
        if not self.is_on:
            return values
        with torch.no_grad():
            low, high = values.min().clamp(max=0), values.max().clamp(min=0)
            scale = ((high - low) / 255).clamp(min=1e-30)
            zero = (-low / scale).round()
            rounded = ((values / scale).round() + zero).clamp_(0, 255).sub_(zero).mul_(scale)
        return values + (rounded - values).detach()


class FloatClip(nn.Module):
    """A Clip that passes its input while the codes behind it clip.

    Attributes:
        is_on: whether these do.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node, self.is_on = node, True

    def forward(self, values: Tensor, *bounds: Tensor) -> Tensor:
        """The values, clipped in float."""
        if self.is_on:
            return values
        result = OPERATORS[self._node.domain, self._node.op].function(self._node, values, *bounds)
        assert isinstance(result, Tensor)
        return result
