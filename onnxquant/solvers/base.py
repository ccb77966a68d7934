"""What a solver is: how the codes of a weight, and its scales, are chosen in a format.

Weights and Gram matrices have their columns in the order in which they are stored; whoever permutes columns does so before,
and adds the permutation to what comes back.
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
from onnxquant.formats.grid import nearest
from onnxquant.formats.matrix import Matrix, chunks
from onnxquant.native import dispatch
from onnxquant.numerics.rows import Split, by_rows

Doubles = NDArray[np.float64]
# Rows whose products with Gram matrices are taken together: bounds the memory for tall weights.
_ROWS = 512


@dataclass(frozen=True, eq=False)
class Inputs:
    """Second moments of what a weight is multiplied with.

    Attributes:
        gram: sum of x x^T over inputs x, float64 [groups, cols, cols]; each group is of rows / groups rows of the weight
            that follow each other.
        count: how many inputs; None: enough.
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
        """``energy`` as a share of its largest, at least 0; ones where a group says nothing: NaN, infinity or all zeros."""
        energy = np.maximum(self.energy, 0)
        largest = energy.max(axis=1, initial=0, keepdims=True)
        told = np.isfinite(largest) & (largest > 0)
        shares: Doubles = np.divide(energy, largest, out=np.ones_like(energy), where=told)
        return shares

    @property
    def told(self) -> NDArray[np.bool_]:
        """Which groups say something: no NaN, no infinity, not all zeros."""
        largest = np.diagonal(self.gram, axis1=1, axis2=2).max(axis=1)
        return np.asarray(np.isfinite(self.gram).all(axis=(1, 2)) & (largest > 0))

    @property
    def known(self) -> Inputs:
        """With zeros for groups that say nothing."""
        told = self.told
        return self if told.all() else replace(self, gram=np.where(told[:, None, None], self.gram, 0.0))

    def check(self, rows: int, cols: int) -> None:
        """Refuse what is not of a weight of this shape.

        Raises:
            WeightError: with both shapes.
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
    """

    name: ClassVar[str]
    # Whether it must know what a weight is multiplied with.
    needs_inputs: ClassVar[bool] = False

    split: Split = field(default=Split(), kw_only=True, repr=False)

    @property
    def summary(self) -> str:
        """What the solver is, in one line."""
        return (type(self).__doc__ or self.name).splitlines()[0].rstrip(".")

    def refusal(self, form: Format) -> str | None:
        """Why it cannot choose codes in a format; None when it can."""
        return form.why_not_solvable or None

    def solve(
        self, form: Format, weight: Matrix, inputs: Inputs | None = None, start: Encoded | None = None
    ) -> Encoded:
        """A weight encoded in a format.

        Args:
            form: a format that is not refused, and not ``permuted``.
            weight: floats [rows, cols].
            inputs: what it is multiplied with; None: unknown.
            start: the weight encoded in the format, whose scales stay as they are; None: they are chosen too.

        Returns:
            the weight, of which no row loses more, as the solver counts it, than it does rounded to nearest; where all
            rows share one scale that is chosen, the whole of it does not.

        Raises:
            RecipeError: the format is refused, or inputs are needed.
            WeightError: a value is NaN or infinite, or inputs or the start do not fit.
        """
        if reason := self.refusal(form):
            raise RecipeError(f"solver {self.name}, format {form.name}: {reason}")
        if form.permuted:
            raise RecipeError(f"solver {self.name}, format {form.name}: expected columns in their stored order")
        if inputs is None and self.needs_inputs:
            raise RecipeError(f"solver {self.name} needs to know what weights are multiplied with")
        if inputs is not None:
            inputs.check(*weight.shape)
        if start is not None:
            _check_start(form, weight, start)
        if not weight.size:
            return start or dispatch.rounded_to_nearest(form, weight)
        return self._solve(form, np.asarray(weight, np.float32), inputs, start)

    @abstractmethod
    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        """As ``solve``, of what was checked and is not empty."""


def _check_start(form: Format, weight: Matrix, start: Encoded) -> None:
    # Some fields are set by encoding.
    alike = [
        getattr(start.format, name, None) == getattr(form, name) for name in ("name", "permuted", *form.parameters())
    ]
    if not all(alike) or (start.rows, start.cols) != weight.shape:
        raise WeightError(
            f"start of format {start.format.name} {start.format.settings()} and shape {[start.rows, start.cols]}: expected "
            f"{form.name} {form.settings()} and {list(weight.shape)}"
        )
    for _ in chunks(weight):  # whoever encodes a weight anew finds NaN there
        pass


def rounded(start: Encoded, weight: Matrix, split: Split | None = None) -> Encoded:
    """The weight with the codes nearest to it on the grid of ``start``."""
    return start.format.place(start, nearest(start.format.grid(start), weight, split))


def losses(weight: Matrix, decoded: Matrix, inputs: Inputs | None = None, split: Split | None = None) -> Doubles:
    """Per row e of the error e H e^T, H the Gram matrix of its group; e e^T without inputs: float64 [rows].

    Args:
        weight: floats [rows, cols].
        decoded: what became of them.
        inputs: what they are multiplied with.
        split: parts of rows, and threads.
    """
    rows, cols = weight.shape
    if inputs is None:
        found = by_rows(rows, cols, lambda part: np.square(_error(weight, decoded, part)).sum(axis=1), split)
        return np.concatenate(found) if found else np.zeros(rows)
    of_group = rows // len(inputs.gram)
    out = np.empty(rows)
    for group, gram in enumerate(inputs.gram):
        for first in range(0, of_group, _ROWS):
            part = slice(group * of_group + first, group * of_group + min(first + _ROWS, of_group))
            error = _error(weight, decoded, part)
            out[part] = np.einsum("rk,rk->r", error @ gram, error)
    return out


def weighted(weight: Matrix, decoded: Matrix, importance: Doubles, split: Split | None = None) -> Doubles:
    """Per row the sum of squared errors, each times its column's importance [groups, cols]."""
    rows, cols = weight.shape
    of_group = rows // len(importance)

    def work(part: slice) -> Doubles:
        error = np.square(_error(weight, decoded, part))
        error *= importance[np.arange(part.start, part.stop) // of_group]
        return np.asarray(error.sum(axis=1))

    found = by_rows(rows, cols, work, split)
    return np.concatenate(found) if found else np.zeros(rows)


def best_rows(tried: Sequence[Encoded], lost: Sequence[Doubles]) -> Encoded:
    """Of each row what loses least, the first one among equals; of the whole where scales that differ are shared by rows.

    Args:
        tried: a weight encoded in several ways in one format.
        lost: what each row loses in each of them.
    """
    best, least = tried[0], lost[0]
    for other, found in zip(tried[1:], lost[1:], strict=True):
        better = found < least
        if any(len(p) != best.rows and not np.array_equal(p, other.planes[n]) for n, p in best.planes.items()):
            better[:] = found.sum() < least.sum()
        shared = other if better.all() else best
        planes = {
            name: np.where(better[:, None], other.planes[name], p) if len(p) == best.rows else shared.planes[name]
            for name, p in best.planes.items()
        }
        best, least = replace(best, planes=planes), np.where(better, found, least)
    return best


def _error(weight: Matrix, decoded: Matrix, part: slice) -> Doubles:
    return weight[part].astype(np.float64) - decoded[part]
