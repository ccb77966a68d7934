"""Bytes of tensors as the projects that define their formats have them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from onnxquant.errors import CheckpointError, WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.ggml.blocks import Blocks
from onnxquant.formats.i2_s import I2_S
from onnxquant.interchange.stored import StoredBytes, bytes_of
from onnxquant.interchange.tensor import Tensor
from onnxquant.numerics.arrays import Bytes


def has_blocks(form: object) -> bool:
    """Whether the bytes that another project defines for a format (``Format.foreign``) are one array."""
    return isinstance(form, Blocks | I2_S)


def blocks_of(tensor: Tensor) -> StoredBytes:
    """The bytes of a tensor as its format's own project defines them; plain numbers as they are.

    Raises:
        WeightError: its format has no such bytes.
    """
    if tensor.blocks is not None:
        return tensor.blocks()
    value = tensor.load()
    if not isinstance(value, Encoded):
        return StoredBytes(bytes_of(value))
    form = value.format
    if not isinstance(form, Blocks | I2_S):
        raise WeightError(f"{tensor.name}: format {form.name} has no blocks")
    return StoredBytes(form.to_blocks(value).reshape(-1))


def from_blocks(
    name: str, form: Format, raw: Bytes, shape: tuple[int, ...], matrix: tuple[int, int] | None = None
) -> Encoded:
    """The weight of a tensor's bytes.

    Args:
        name: name of the tensor, for errors.
        form: its format.
        raw: its bytes.
        shape: its shape.
        matrix: rows and columns of its codes; None: rows lie along its last axis.

    Raises:
        CheckpointError: a code has no meaning, or the format has no such bytes.
    """
    rows, cols = matrix or (prod(shape[:-1]), shape[-1] if shape else 1)
    if not isinstance(form, Blocks | I2_S):
        raise CheckpointError(f"tensor {name}: format {form.name} has no blocks")
    if not rows * cols:
        return replace(form.empty(rows, cols), shape=shape)
    try:
        encoded = form.from_blocks(raw, rows, cols)
    except WeightError as error:
        raise CheckpointError(f"tensor {name}: {error}") from None
    return Encoded(encoded.format, rows, cols, encoded.planes, shape)
