"""A linear layer with an encoded weight, computed by the compiled kernels without a session."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError, WeightError, shown
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.matrix import Matrix
from onnxquant.graph.needs import View
from onnxquant.native import arrays, kernels, library
from onnxquant.native.products import StoredWeight, matmul
from onnxquant.targets.bodies import MIN_OPSET, kernel_name
from onnxquant.targets.layouts.tiles import TilesLayout


class LayerCompute(StrEnum):
    """Arithmetic of a layer's products."""

    FLOAT = "float"
    # Activations are rounded to 8 bits, block by block, where the codes of the weight are integers.
    INT8 = "int8"


@runtime_checkable
class Linear(Protocol):
    """A linear layer of any framework: a weight [outputs, inputs] and a bias or None."""

    weight: Any
    bias: Any


@dataclass(frozen=True, eq=False)
class QuantizedLinear:
    """``x @ W.T + bias`` with an encoded weight, on one thread.

    Attributes:
        weight: the encoded weight [outputs, inputs]; of a kernel, its inputs are those of one output channel.
        bias: float32 [outputs], or None.
        compute: "float", or "int8", which rounds activations to 8 bits.
        inputs: length of the rows of x; None: that of the weight's rows. A weight may have columns of zeros behind them.

    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.standard_normal((16, 64), np.float32), rng.standard_normal((2, 64), np.float32)
    >>> layer = QuantizedLinear.from_linear(w, "q8_0")
    >>> bool(np.abs(layer(x) - x @ layer.dequantize().T).max() < 1e-4)
    True
    """

    weight: Encoded
    bias: Matrix | None = None
    compute: str = LayerCompute.FLOAT
    inputs: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            RecipeError: no such arithmetic, or it has no effect on the weight; an argument of another type.
            WeightError: the bias has another length than the outputs.
        """
        if not isinstance(self.weight, Encoded):
            raise RecipeError(f"weight is {shown(self.weight)}, expected Encoded")
        if self.bias is not None:
            object.__setattr__(self, "bias", as_float(self.bias, "bias"))
        if self.inputs is not None and (isinstance(self.inputs, bool) or not isinstance(self.inputs, int | np.integer)):
            raise RecipeError(f"inputs is {shown(self.inputs)}, expected int")
        if not isinstance(self.compute, str) or self.compute not in tuple(LayerCompute):
            raise RecipeError(f"compute is {shown(self.compute)}, expected {' or '.join(LayerCompute)}")
        if self.compute == LayerCompute.INT8 and (reason := self._why_not_int8()):
            raise RecipeError(f"compute 'int8' has no effect: {reason}; expected 'float'")
        if self.bias is not None and self.bias.shape != (self.out_features,):
            raise WeightError(f"bias of shape {list(self.bias.shape)}, expected [{self.out_features}]")

    @classmethod
    @checked
    def from_linear(
        cls, linear: Linear | ArrayLike, format: str | Format = "int8", *, bias: ArrayLike | None = None,
        compute: str = LayerCompute.FLOAT, **parameters: object,
    ) -> Self:  # fmt: skip
        """A layer from float weights.

        Args:
            linear: a layer with ``weight`` and ``bias``, such as torch.nn.Linear, or the weight alone.
            format: a format or its name.
            bias: bias, where ``linear`` has none.
            compute: "float" or "int8".
            parameters: parameters of the format.

        Raises:
            RecipeError: unknown format or parameter, or two biases.
            WeightError: NaN, infinity, or a value out of the format's range.
        """
        values: object = linear
        if isinstance(linear, Linear):
            if bias is not None and linear.bias is not None:
                raise RecipeError("bias: the layer has one already; expected a layer without a bias, or none here")
            values, bias = linear.weight, bias if linear.bias is None else linear.bias
        weight = as_float(values, "weight")
        if weight.ndim < 2:
            raise WeightError(f"weight of shape {list(weight.shape)}, expected [outputs, inputs]")
        form = format_named(format, **parameters) if isinstance(format, str) else format.with_(**parameters)
        matrix = weight.reshape(len(weight), -1)
        outputs, inputs = matrix.shape
        if form.unfit(outputs, inputs) and isinstance(form.granularity, PerBlock):
            matrix = np.pad(matrix, ((0, 0), (0, -inputs % form.granularity.size)))
        return cls(arrays.encode(matrix, form), None if bias is None else as_float(bias, "bias"), compute, inputs)

    @property
    def out_features(self) -> int:
        """Length of the rows that the layer gives."""
        return (self.weight.shape or (self.weight.rows,))[0]

    @property
    def in_features(self) -> int:
        """Length of the rows that the layer takes."""
        return prod((self.weight.shape or (0, self.weight.cols))[1:]) if self.inputs is None else self.inputs

    def forward(self, x: ArrayLike) -> Matrix:
        """The product.

        Args:
            x: floats [..., inputs].

        Raises:
            WeightError: the rows have another length.
        """
        values = as_float(x, "x")
        if not values.ndim or values.shape[-1] != self.in_features:
            raise WeightError(f"x of shape {list(values.shape)}, expected rows of {self.in_features}")
        rows = values.reshape(-1, self.in_features)
        return self._product(rows).reshape(*values.shape[:-1], self.out_features)

    __call__ = forward

    def dequantize(self) -> Matrix:
        """The weight that the layer multiplies with, float32 [outputs, inputs]."""
        return arrays.decode(self.weight).reshape(self.out_features, -1)[:, : self.in_features]

    def _product(self, rows: Matrix) -> Matrix:
        stored = self._stored
        if stored is None:
            product: Matrix = rows @ self._dense.T
            return product if self.bias is None else product + self.bias
        compute = "float32" if self.compute == LayerCompute.FLOAT else self.compute
        padded = np.pad(rows, ((0, 0), (0, stored.cols - rows.shape[1]))) if rows.shape[1] < stored.cols else rows
        return matmul(padded, stored, compute=compute, bias=self.bias)

    def _why_not_int8(self) -> str | None:
        """The reason why activations cannot be rounded to 8 bits."""
        form = self.weight.format
        if self.weight.rows != self.out_features:
            return "blocks of the weight cross its rows, and no kernel reads it"
        if not has_kernel(form) or not kernels.geometry(kernel_name(form)).has_int8:
            return f"format {form.name} has no kernel for activations of 8 bits"
        return None

    @cached_property
    def _stored(self) -> StoredWeight | None:
        """The weight as the kernels read it; None where they have no such format, or blocks cross rows."""
        weight = self.weight
        if weight.rows != self.out_features or not weight.rows * weight.cols:
            return None
        return stored_weight(weight) if has_kernel(weight.format) else None

    @cached_property
    def _dense(self) -> Matrix:
        return self.dequantize()


def has_kernel(form: Format) -> bool:
    """Whether the compiled library multiplies with weights of this format."""
    return library.is_available() and kernel_name(form) in kernels.formats()


def stored_weight(weight: Encoded) -> StoredWeight:
    """An encoded weight in the order of the kernels."""
    layout = TilesLayout(weight.format, View((weight.rows, weight.cols), (0, 1)), MIN_OPSET)
    return StoredWeight(kernel_name(weight.format), layout.pack(weight), weight.rows, weight.cols, layout.block)


def as_float(values: object, name: str) -> Matrix:
    """An array, or a tensor of torch, as float32.

    Raises:
        RecipeError: it holds no real numbers; the message has its name.
    """
    whole = values
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu().float().numpy()
        array: NDArray[Any] = np.asarray(values)
        if array.dtype.kind not in "cOSUMm":
            return array.astype(np.float32, copy=False)
    except (TypeError, ValueError):
        pass
    raise RecipeError(f"{name} is {shown(whole)}, expected an array of numbers")
