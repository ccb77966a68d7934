"""Encoders and decoders of the compiled library: the bytes of ``onnxquant.formats``, faster.

Rows are split over threads in fixed parts; planes and sums are the same for any number of threads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import Stack, check_permutation, columns_by_norm
from onnxquant.formats.planes import Planes
from onnxquant.formats.survey import Surveyed
from onnxquant.native import library
from onnxquant.native.jobs import Execution
from onnxquant.native.weight_job import WeightJob
from onnxquant.numerics.difference import Difference


def supports(form: Format) -> bool:
    """Whether the library is there, and encodes and decodes this format.

    >>> from onnxquant.formats import format_named
    >>> supports(format_named("q4_0"))
    True
    """
    # A class that derives from a format of ours and keeps its name may encode in another way.
    return "name" in vars(type(form)) and form.name in names() and form.is_compiled


@cache
def names() -> frozenset[str]:
    """Names of the formats that the library encodes; none where there is no library."""
    return frozenset(library.text("encoders").split(",")) if library.is_available() else frozenset()


def can_decode(encoded: Encoded) -> bool:
    """Whether the library decodes this: a format that it knows, planes of the types and shapes that the format declares."""
    return supports(encoded.format) and _plane_mismatch(encoded) is None


def encode(
    form: Format, weight: NDArray[Any] | Stack, permutation: ArrayLike | None = None, execution: Execution | None = None
) -> tuple[Encoded, Difference]:
    """The planes that ``Format.encode`` gives, and the difference between the decoded weight and the weight in float32.

    Args:
        form: a format that ``supports`` knows.
        weight: matrix [rows, cols], or a stack; any float type, any strides.
        permutation: the original column of each stored one; None: see ``Format.encode``.
        execution: threads and instruction set.

    Raises:
        WeightError: a value is NaN or infinite, a scale does not fit its type, or the permutation is not one.
    """
    rows, cols = weight.shape
    form.check_shape(rows, cols)
    order = None
    if permutation is not None:
        order = check_permutation(permutation, cols)
    elif form.permuted:
        order = columns_by_norm(weight.whole() if isinstance(weight, Stack) else weight)
    if rows and cols:
        encoded, difference = _encode(form, WeightJob(rows, cols, weight, order, execution or Execution()))
    else:
        encoded, difference = form.empty(rows, cols), Difference()
    return encoded if order is None else encoded.with_order(order), difference


def _encode(form: Format, job: WeightJob) -> tuple[Encoded, Difference]:
    """The encoded weight, and its difference from the float weight."""
    rows, cols = job.rows, job.cols
    prepared = form.prepare(None if form.surveyed is Surveyed.NOTHING else job.survey(form.surveyed))
    form, inner = prepared.format, prepared.format.inner
    planes = {p.name: np.empty(p.shape, p.dtype) for p in inner.declared_planes(rows, cols)} | prepared.planes
    encoded = Encoded(inner, rows, cols, planes, (rows, cols))
    difference = job.difference(job.run("encode", inner, planes, shared=prepared.shared), encoded)
    if inner is form:
        return encoded, difference
    encoded = Encoded(form, rows, cols, form.nest(planes), (rows, cols))
    return encoded, job.difference(job.run("measure", inner, form.unnest(encoded.planes)), encoded)


def decode(encoded: Encoded, execution: Execution | None = None) -> NDArray[np.float32]:
    """The float32 matrix [rows, cols] that an encoded weight stands for, columns in their original order.

    Raises:
        WeightError: the permutation is not one.
    """
    values = np.empty((encoded.rows, encoded.cols), np.float32)
    if values.size:
        job = WeightJob(encoded.rows, encoded.cols, None, _order(encoded), execution or Execution())
        job.run("decode", encoded.format.inner, _contiguous_planes(encoded), decoded=values)
    return values


def measure(encoded: Encoded, weight: NDArray[Any], execution: Execution | None = None) -> Difference:
    """The difference between an encoded weight and a matrix.

    Raises:
        WeightError: NaN or infinity in the weight, or the permutation is not one.
    """
    if weight.shape != (encoded.rows, encoded.cols):
        return Difference(shape_mismatch=f"{[encoded.rows, encoded.cols]} instead of {list(weight.shape)}")
    if not weight.size:
        return Difference()
    job = WeightJob(encoded.rows, encoded.cols, weight, _order(encoded), execution or Execution())
    return job.difference(job.run("measure", encoded.format.inner, _contiguous_planes(encoded)), encoded)


def _contiguous_planes(encoded: Encoded) -> Planes:
    """Planes of the inner format as the library takes them."""
    if reason := _plane_mismatch(encoded):
        raise WeightError(f"format {encoded.format.name}: {reason}")
    return encoded.format.unnest({name: library.in_order(plane) for name, plane in encoded.planes.items()})


def _plane_mismatch(encoded: Encoded) -> str | None:
    """The first plane that is not as the format declares it."""
    for declared in encoded.format.declared_planes(encoded.rows, encoded.cols):
        plane = encoded.planes.get(declared.name)
        if plane is None:
            return f"no plane {declared.name}"
        if plane.shape != declared.shape or plane.dtype != declared.dtype:
            return (
                f"plane {declared.name} is {plane.dtype} {list(plane.shape)}, expected {declared.dtype} "
                f"{list(declared.shape)}"
            )
    return None


def _order(encoded: Encoded) -> NDArray[np.int32] | None:
    order = encoded.planes.get("permutation")
    return None if order is None else check_permutation(order, encoded.cols)
