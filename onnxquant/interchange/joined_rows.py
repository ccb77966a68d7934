"""Rows of encoded weights put below each other, in any order: their codes and scales move as they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import gcd, prod

import numpy as np

from onnxquant.errors import CheckpointError, RecipeError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.bitsandbytes.block_table import BlockTable
from onnxquant.formats.planes import Planes
from onnxquant.interchange.tensor import Tensor
from onnxquant.numerics.arrays import Array


def independent(encoded: Encoded) -> Encoded:
    """The same weight with scales of its rows' own, where they were stored by means of all."""
    form = encoded.format
    if form.inner is form or form.permuted:
        return encoded
    return replace(encoded, format=form.inner, planes=form.unnest(encoded.planes))


def has_independent_rows(form: Format, cols: int) -> bool:
    """Whether rows of several weights of a format can stand below each other, whatever the weights."""
    form = form.inner
    return not form.permuted and form.planes(2, cols).keys() == form.planes_by_row(2, cols)


def joined(parts: Sequence[Encoded], rows: Array) -> Encoded:
    """A weight of some rows of others.

    Args:
        parts: the others, of one format and as many columns.
        rows: places of the rows in all of them below each other.

    Raises:
        CheckpointError: they are of several formats, or of one whose rows depend on each other.
    """
    first = parts[0]
    names = sorted({part.format.name for part in parts})
    if any(part.format != first.format for part in parts):
        raise CheckpointError(f"its rows are of different formats in the checkpoint: {', '.join(names)}")
    cols = first.cols
    divided = first.format.planes_by_row(first.rows, cols)
    planes: Planes = {}
    for name, plane in first.planes.items():
        if name in divided:
            planes[name] = np.concatenate([part.planes[name] for part in parts])[rows]
        elif all(np.array_equal(part.planes[name], plane) for part in parts):
            planes[name] = plane
        else:
            raise CheckpointError(f"its rows are of weights with different {name}")
    return Encoded(first.format, len(rows), cols, planes, (len(rows), cols))


def by_rows(tensor: Tensor) -> Tensor:
    """The tensor with a row for each output channel: blocks of bitsandbytes run over the whole tensor, across its rows."""
    if not isinstance(tensor.kind, BlockTable):
        return tensor
    rows, cols = tensor.shape[0], prod(tensor.shape[1:])
    form: Format = tensor.kind
    if tensor.matrix_shape != (rows, cols) or cols % tensor.kind.block_size:
        with suppress(RecipeError):  # blocks so small that the format has none: reading says it
            form = form.inner.with_(block_size=gcd(cols, tensor.kind.block_size))
    return replace(tensor, kind=form, load=lambda: _cut(tensor, rows, cols), matrix=(rows, cols))


def _cut(tensor: Tensor, rows: int, cols: int) -> Encoded:
    """A weight whose blocks cross rows, in smaller blocks of the same scales that do not."""
    encoded = tensor.encoded()
    if encoded.cols == cols:
        return encoded
    encoded = independent(encoded)
    form = encoded.format
    if not isinstance(form, BlockTable):
        raise CheckpointError(f"{tensor.name}: its blocks do not run along its rows")
    size = gcd(cols, form.block_size)
    try:
        smaller = form.with_(block_size=size)
    except RecipeError as error:
        raise CheckpointError(f"{tensor.name}: blocks of {form.block_size} cross its rows of {cols}: {error}") from None
    scales = np.repeat(encoded.planes["scales"].reshape(-1), form.block_size // size)[: rows * cols // size]
    codes = encoded.planes["codes"].reshape(-1)[: rows * cols]
    planes: Planes = {"codes": codes.reshape(rows, cols), "scales": scales.reshape(rows, -1)}
    return Encoded(smaller, rows, cols, planes, (rows, cols))
