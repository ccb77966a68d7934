"""One weight that the compiled library surveys, encodes, decodes or measures, part by part."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.granularity import Granularity, PerBlock, PerRow, PerTensor
from onnxquant.formats.matrix import Matrix, Stack
from onnxquant.formats.native_job import NativeJob
from onnxquant.formats.planes import Planes
from onnxquant.formats.survey import Survey, Surveyed
from onnxquant.native.jobs import (
    EncodeJob,
    ErrorSums,
    Execution,
    SourceStructure,
    SurveyJob,
    SurveyStructure,
    address,
    readable,
    run,
    source,
)
from onnxquant.native.library import in_order
from onnxquant.numerics.difference import Difference
from onnxquant.numerics.rows import in_threads

# The fields of a job that planes are passed in.
_FIELDS = {
    "codes": "codes", "values": "codes", "scales": "scales", "minima": "seconds", "zero_points": "seconds",
    "outliers": "seconds", "subscales": "subscales", "subminima": "subminima",
}  # fmt: skip
# Weights that are worked on together where a format has no blocks, or all rows share one scale.
_GROUP = 256


def _set_parameters(job: EncodeJob, native: NativeJob) -> None:
    """Set the fields of a job that a format declares; it points to arrays of the declaration."""
    job.zero_point = native.zero_point
    if native.table is not None:
        job.table = address(native.table)
    if (search := native.search) is not None:
        job.levels, job.level_codes = address(search.levels), address(search.codes)
        job.bounds, job.starts, job.level_count = address(search.bounds), address(search.starts), len(search.levels)
    if native.seed is not None:
        job.stochastic, job.seed = 1, native.seed


def _group(granularity: Granularity | None) -> int:
    """Weights per scale as the library counts them; 0: a row."""
    if isinstance(granularity, PerBlock):
        return granularity.size
    return 0 if isinstance(granularity, PerRow) else _GROUP


class WeightJob:
    """A weight, and the way the library is to walk over it.

    Args:
        rows: number of rows.
        cols: number of columns.
        weight: the matrix, or a stack; None: there is only an encoded weight.
        order: the original column of each stored one; None: the original order.
        execution: threads and instruction set.
    """

    def __init__(
        self,
        rows: int,
        cols: int,
        weight: NDArray[Any] | Stack | None,
        order: NDArray[np.int32] | None,
        execution: Execution,
    ) -> None:
        self.rows, self.cols, self.execution = rows, cols, execution
        self.order = None if order is None else in_order(order)
        self._isa = execution.isa.encode()
        self._matrices: list[NDArray[Any]] = []
        self._firsts, self._parts = [0], list[slice]()  # first row of each matrix; parts of rows, each of one matrix
        if weight is None:
            self._parts = execution.parts(rows, cols)
            return
        for matrix in weight.parts if isinstance(weight, Stack) else [weight]:
            first = self._firsts[-1]
            self._parts += [slice(first + p.start, first + p.stop) for p in execution.parts(len(matrix), cols)]
            self._matrices.append(readable(matrix))
            self._firsts.append(first + len(matrix))

    def _source(self, part: slice) -> SourceStructure:
        """A part of the weight, or the order of its columns alone."""
        if not self._matrices:
            return source(None, self.order, part.start)
        place = bisect_right(self._firsts, part.start) - 1
        return source(self._matrices[place], self.order, part.start - self._firsts[place])

    def survey(self, surveyed: Surveyed) -> Survey:
        """Numbers of the whole weight.

        Raises:
            WeightError: a value is NaN or infinite.
        """
        peaks = np.zeros(self.cols if surveyed is Surveyed.COLUMNS else 0, np.float32)

        def work(part: slice) -> tuple[SurveyStructure, Matrix]:
            numbers, own = SurveyStructure(), np.zeros_like(peaks)
            job = SurveyJob(0, self._isa, self._source(part), part.stop - part.start, self.cols)
            job.survey = ctypes.addressof(numbers)
            job.column_peaks = address(own) if own.size else None
            run("survey", job)
            return numbers, own

        surveys = in_threads(work, self._parts, self.execution.threads)
        for part, (numbers, own) in zip(self._parts, surveys, strict=True):
            self._check_finite(part, numbers)
            np.maximum(peaks, own, out=peaks)
        each = [numbers for numbers, _ in surveys]
        return Survey(
            self.rows * self.cols,
            sum(s.sum for s in each),
            min(s.low for s in each),
            max(s.high for s in each),
            min(s.smallest for s in each),
            peaks,
        )

    def run(
        self,
        action: str,
        form: Format,
        planes: Planes,
        *,
        shared: Matrix | None = None,
        decoded: Matrix | None = None,
    ) -> list[ErrorSums]:
        """Encode, measure or decode each part.

        Args:
            action: "encode", "measure" or "decode".
            form: the format that the planes are of.
            planes: contiguous planes, written where the action is to encode.
            shared: numbers that every row is encoded with.
            decoded: matrix that is written where the action is to decode.

        Returns:
            the sums of each part.
        """
        native, group = form.native_job, _group(form.granularity)
        divided = form.planes_by_row(self.rows, self.cols)
        of_tensor = isinstance(form.granularity, PerTensor)
        if shared is None and of_tensor:
            shared = np.zeros(2, np.float32)  # says that there is one scale, which is in the plane

        def work(part: slice) -> ErrorSums:
            sums = ErrorSums()
            job = EncodeJob(0, self._isa, form.name.encode(), action.encode(), self._source(part))
            job.rows, job.cols, job.first_row = part.stop - part.start, self.cols, part.start
            job.group = group
            _set_parameters(job, native)
            # A scale of the whole tensor is written by the first part only; the others write into a copy.
            copies = of_tensor and action == "encode" and part.start > 0
            own = {name: p if name in divided else p.copy() for name, p in planes.items()} if copies else planes
            for name in planes.keys() & _FIELDS.keys():
                plane = own[name]
                setattr(job, _FIELDS[name], address(plane[part.start :] if name in divided else plane))
            if (columns := planes.get("outlier_columns")) is not None:
                job.outlier_columns, job.outlier_count = address(columns), len(columns)
            if shared is not None:
                job.shared = address(shared)
            if decoded is not None:
                job.decoded = address(decoded[part.start :])
            job.statistics = ctypes.addressof(sums)
            run("encode", job)
            return sums

        parts = in_threads(work, self._parts, self.execution.threads)
        for part, sums in zip(self._parts, parts, strict=True):
            self._check_finite(part, sums)
        return parts

    def difference(self, parts: list[ErrorSums], encoded: Encoded) -> Difference:
        """The sums of all parts, added in their order.

        Raises:
            RangeError: the weight is beyond what the format's scales can express.
        """
        error, bias, reference, actual = (
            sum(getattr(p, name) for p in parts) for name in ("error", "bias", "reference", "actual")
        )
        if not np.isfinite(actual) and self._matrices:
            return self._out_of_range(encoded, Stack(self._matrices).whole())
        worst, unequal = max(p.worst for p in parts), sum(p.unequal for p in parts)
        dot = (actual + reference - error) / 2
        return Difference(self.rows * self.cols, error, bias, reference, actual, dot, worst, unequal)

    def _out_of_range(self, encoded: Encoded, weight: NDArray[Any]) -> Difference:
        """The difference, or the error, of a weight that does not decode to finite values; numpy finds which values."""
        with np.errstate(over="ignore"):
            weight = weight.astype(np.float32)
        encoded.format.check_range(weight, encoded.planes)
        difference = Difference()
        with np.errstate(all="ignore"):
            stored = self.order is not None and "permutation" not in encoded.planes
            difference.add(weight[:, self.order] if stored else weight, encoded.format.decode(encoded))
        return difference

    def _check_finite(self, part: slice, numbers: SurveyStructure | ErrorSums) -> None:
        if numbers.bad_row < 0 or not self._matrices:
            return
        row, col = part.start + numbers.bad_row, numbers.bad_col
        place = bisect_right(self._firsts, row) - 1
        with np.errstate(over="ignore"):
            value = np.float32(self._matrices[place][row - self._firsts[place], col])
        raise WeightError(f"holds {value} at row {row}, column {col}; expected finite values")
