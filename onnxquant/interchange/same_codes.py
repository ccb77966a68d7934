"""A weight in another format that has the same codes and scales, so that nothing is rounded again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from onnxquant.errors import CheckpointError
from onnxquant.formats import formats
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.formats.parameters import parameters_of
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.interchange.container import Container
from onnxquant.interchange.tensor import Tensor
from onnxquant.numerics.arrays import Array


def as_held(container: type[Container], tensor: Tensor) -> Tensor:
    """The tensor in a form that a container holds, itself where there is none.

    A weight in a float format is an array of floats; ``int4`` in blocks of 32 has the codes and scales of ``q4_0``, ``int8``
    those of ``q8_0``.
    """
    if container.why_not(tensor) is None:
        return tensor
    if isinstance(tensor.kind, Floats) and not tensor.kind.permuted:
        return replace(tensor, kind=tensor.kind.dtype, load=partial(_values, tensor), matrix=None)
    if not isinstance(tensor.kind, ScaledCodes):
        return tensor
    for form in _alike(tensor.kind):
        other = replace(tensor, kind=form, load=_Recoded(tensor, form), blocks=None)
        if container.why_not(other) is None:
            return other
    return tensor


def _values(tensor: Tensor) -> Array:
    """The floats of a weight in a float format."""
    return tensor.encoded().planes["values"].reshape(tensor.shape)


class _Recoded:
    """A function that loads a tensor with its codes in another format."""

    def __init__(self, tensor: Tensor, form: ScaledCodes) -> None:
        self._tensor, self._form = tensor, form

    def __call__(self) -> Encoded:
        encoded = self._tensor.encoded()
        codes = encoded.planes["codes"]
        if codes.size and codes.min() < self._form.bottom:
            raise CheckpointError(
                f"{self._tensor.name}: has the code {codes.min()}, which {self._form.name} does not use"
            )
        return replace(encoded, format=self._form)


def _alike(form: ScaledCodes) -> list[ScaledCodes]:
    """Formats whose planes are the same arrays with the same meaning."""
    granularity = form.granularity
    if not isinstance(granularity, PerBlock) or form.zero_type is not ZeroPoint.NONE:
        return []
    others = [_with_block(other, granularity.size) for other in formats()]
    return [
        other.with_(permuted=form.permuted)
        for other in others
        if isinstance(other, ScaledCodes)
        and type(other) is not type(form)
        and (other.bits, other.offset, other.zero_type) == (form.bits, form.offset, form.zero_type)
        and (other.scale_dtype, other.granularity) == (form.scale_dtype, granularity)
    ]


def _with_block(form: Format, size: int) -> Format:
    """The format in blocks of a size, where it may choose."""
    block = parameters_of(type(form)).get("block_size")
    return form if block is None or block.mistake(size) else form.with_(block_size=size)
