"""Base of the solvers, and the errors that they compare.

Weights and Gram matrices have their columns in the order in which they are stored: the caller permutes columns before, and
adds the permutation to the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxquant.errors import RecipeError, WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.grid import nearest_indices
from onnxquant.formats.matrix import Matrix, chunks
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.rows import RowSplit, by_rows

# Rows that are multiplied with a Gram matrix together: bounds the memory for tall weights.
_ROWS = 512


@dataclass(frozen=True, eq=False)
class Inputs:
    """Second moments of the inputs that a weight is multiplied with.

    Attributes:
        gram: sum of x x^T over inputs x, float64 [groups, cols, cols]; a group serves rows / groups consecutive rows of
            the weight.
        count: number of inputs; None: so many that they need not be trusted less.
    """

    gram: Doubles
    count: int | None = None

    @property
    def energy(self) -> Doubles:
        """Sum of squares of each input, [groups, cols]."""
        diagonal: Doubles = np.diagonal(self.gram, axis1=1, axis2=2)
        return diagonal

    @property
    def importance(self) -> Doubles:
        """``energy`` as a share of its largest, at least 0; ones for a group with NaN, infinity or zeros only."""
        energy = np.maximum(self.energy, 0)
        largest = energy.max(axis=1, initial=0, keepdims=True)
        usable = np.isfinite(largest) & (largest > 0)
        shares: Doubles = np.divide(energy, largest, out=np.ones_like(energy), where=usable)
        return shares

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether each group has something to say: no NaN, no infinity, not all zeros."""
        largest = np.diagonal(self.gram, axis1=1, axis2=2).max(axis=1)
        return np.asarray(np.isfinite(self.gram).all(axis=(1, 2)) & (largest > 0))

    @property
    def cleaned(self) -> Inputs:
        """The inputs with zeros for groups that are not usable."""
        usable = self.usable
        return self if usable.all() else replace(self, gram=np.where(usable[:, None, None], self.gram, 0.0))

    def check(self, rows: int, cols: int) -> None:
        """Refuse Gram matrices that do not fit a weight.

        Raises:
            WeightError: the shapes of both.
        """
        gram = self.gram
        if gram.ndim != 3 or gram.shape[1:] != (cols, cols) or not len(gram) or rows % len(gram):
            raise WeightError(f"Gram matrix of shape {list(gram.shape)}: does not fit a weight of shape {[rows, cols]}")


@dataclass(frozen=True)
class Solver(ABC):
    """A way to choose codes. Subclasses are frozen dataclasses whose fields are the solver's parameters.

    The first line of a subclass's docstring is its summary for ``onnxquant list``.

    Attributes:
        split: size of the parts that rows are solved in, and threads; codes depend on neither.
        keeps_zeros: whether weights that are zero stay zero, in a format that has a zero: they were pruned.
    """

    name: ClassVar[str]
    # Whether it needs the inputs that a weight is multiplied with.
    needs_inputs: ClassVar[bool] = False
    # Whether the search for static activations may choose the codes of all weights with it.
    serves_static_activations: ClassVar[bool] = False

    split: RowSplit = field(default=RowSplit(), kw_only=True, repr=False)
    keeps_zeros: bool = field(default=False, kw_only=True, repr=False)

    @property
    def summary(self) -> str:
        """The solver in one line."""
        return (type(self).__doc__ or self.name).splitlines()[0].rstrip(".")

    def refusal(self, form: Format) -> str | None:
        """The reason why it cannot choose codes in a format; None when it can."""
        return form.why_not_solvable or None

    def solve(
        self, form: Format, weight: Matrix, inputs: Inputs | None = None, start: Encoded | None = None
    ) -> Encoded:
        """A weight encoded in a format.

        Args:
            form: a format that is not refused, and not ``permuted``.
            weight: floats [rows, cols].
            inputs: inputs that it is multiplied with; None: unknown.
            start: the weight encoded in the format, whose scales stay as they are; None: scales are chosen too.

        Returns:
            the encoded weight. By the solver's own measure no row loses more than it does rounded to nearest; where all
            rows share one scale that is chosen, this holds for the whole weight.

        Raises:
            RecipeError: the format is refused, or inputs are needed.
            WeightError: a value is NaN or infinite, or inputs or the start do not fit.
        """
        if reason := self.refusal(form):
            raise RecipeError(f"solver {self.name}, format {form.name}: {reason}")
        if form.permuted:
            raise RecipeError(f"solver {self.name}, format {form.name}: expected columns in their stored order")
        if self.needs_inputs:
            self._required(inputs)
        if inputs is not None:
            inputs.check(*weight.shape)
        if start is not None:
            _check_start(form, weight, start)
        if not weight.size:
            return start or dispatch.rounded_to_nearest(form, weight)
        return self._solve(form, np.asarray(weight, np.float32), inputs, start)

    @abstractmethod
    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        """The result of ``solve`` for arguments that were checked and a weight that is not empty."""

    def _required(self, inputs: Inputs | None) -> Inputs:
        """The inputs of a solver that needs them.

        Raises:
            RecipeError: there are none.
        """
        if inputs is None:
            raise RecipeError(f"solver {self.name} needs to know what weights are multiplied with")
        return inputs


def _check_start(form: Format, weight: Matrix, start: Encoded) -> None:
    """Refuse a start that is another format or shape than the weight to solve, and weights that are not finite."""
    # Some fields are set by encoding.
    alike = [
        getattr(start.format, name, None) == getattr(form, name) for name in ("name", "permuted", *form.parameters())
    ]
    if not all(alike) or (start.rows, start.cols) != weight.shape:
        raise WeightError(
            f"start of format {start.format.name} {start.format.settings()} and shape {[start.rows, start.cols]}: expected "
            f"{form.name} {form.settings()} and {list(weight.shape)}"
        )
    for _ in chunks(weight):  # refuses NaN, as encoding a weight anew does
        pass


def rounded(start: Encoded, weight: Matrix, split: RowSplit | None = None) -> Encoded:
    """The weight with the codes nearest to it on the grid of ``start``."""
    return start.format.place(start, nearest_indices(start.format.grid(start), weight, split))


def losses(weight: Matrix, decoded: Matrix, inputs: Inputs | None = None, split: RowSplit | None = None) -> Doubles:
    """Loss of each row with the error e: e H e^T, H the Gram matrix of its group, or e e^T without inputs; float64 [rows].

    Args:
        weight: floats [rows, cols].
        decoded: the decoded weight.
        inputs: inputs that the weight is multiplied with.
        split: parts of rows, and threads.
    """
    rows, cols = weight.shape
    if inputs is None:
        parts = by_rows(rows, cols, lambda part: np.square(_error(weight, decoded, part)).sum(axis=1), split)
        return np.concatenate(parts) if parts else np.zeros(rows)
    rows_per_group = rows // len(inputs.gram)
    out = np.empty(rows)
    for group, gram in enumerate(inputs.gram):
        for first in range(0, rows_per_group, _ROWS):
            start = group * rows_per_group
            part = slice(start + first, start + min(first + _ROWS, rows_per_group))
            error = _error(weight, decoded, part)
            out[part] = np.einsum("rk,rk->r", error @ gram, error)
    return out


def weighted(weight: Matrix, decoded: Matrix, importance: Doubles, split: RowSplit | None = None) -> Doubles:
    """Loss of each row: the sum of squared errors, each times its column's importance [groups, cols]."""
    rows, cols = weight.shape
    rows_per_group = rows // len(importance)

    def work(part: slice) -> Doubles:
        error = np.square(_error(weight, decoded, part))
        error *= importance[np.arange(part.start, part.stop) // rows_per_group]
        return np.asarray(error.sum(axis=1))

    parts = by_rows(rows, cols, work, split)
    return np.concatenate(parts) if parts else np.zeros(rows)


def best_rows(candidates: Sequence[Encoded], row_losses: Sequence[Doubles]) -> Encoded:
    """The candidate with the smallest loss for each row, the first on ties; one for all rows if they share a scale.

    Args:
        candidates: a weight encoded in several ways in one format.
        row_losses: loss of each row, for each candidate.
    """
    best, least = candidates[0], row_losses[0]
    for other, loss in zip(candidates[1:], row_losses[1:], strict=True):
        better = loss < least
        if any(len(p) != best.rows and not np.array_equal(p, other.planes[n]) for n, p in best.planes.items()):
            better[:] = loss.sum() < least.sum()
        shared = other if better.all() else best
        planes = {
            name: np.where(better[:, None], other.planes[name], p) if len(p) == best.rows else shared.planes[name]
            for name, p in best.planes.items()
        }
        best, least = replace(best, planes=planes), np.where(better, loss, least)
    return best


def _error(weight: Matrix, decoded: Matrix, part: slice) -> Doubles:
    return weight[part].astype(np.float64) - decoded[part]
