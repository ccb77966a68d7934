"""The part of a format that solvers ask: its grid, and the weight with other codes or other scales."""

from __future__ import annotations

from dataclasses import Field, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from onnxquant.errors import WeightError
from onnxquant.formats.grid import FloatArray, Indices, LevelGrid
from onnxquant.formats.matrix import Matrix
from onnxquant.formats.planes import Planes


class _EncodedWeight(Protocol):
    """An encoded weight as this module sees it: a dataclass with planes. ``Encoded`` is the one there is."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def planes(self) -> Planes: ...


E = TypeVar("E", bound=_EncodedWeight)


class SolvableFormat(Generic[E]):
    """Base of ``Format``, whose encoded weights are of type E. Columns are in the order in which they are stored.

    A format that solvers can choose codes in defines ``levels`` and ``grid`` and clears ``why_not_solvable``. One whose
    scales they can choose defines ``scale_planes`` too and clears ``why_scales_fixed``.
    """

    @property
    def why_not_solvable(self) -> str:
        """The reason why codes cannot be chosen; "" where they can."""
        return "its values are no codes on a grid"

    @property
    def has_grid(self) -> bool:
        """Whether its values are codes on a grid, whichever way the codes are chosen."""
        return not self.why_not_solvable

    @property
    def why_scales_fixed(self) -> str:
        """The reason why scales cannot be chosen; "" where they can."""
        return self.why_not_solvable or "its scales are what they are"

    @property
    def shifts(self) -> bool:
        """Whether a grid of this format has a shift that can be chosen."""
        return False

    def levels(self) -> tuple[Matrix, Indices]:
        """Levels of the grid, ascending, and the code of each.

        Raises:
            WeightError: the format has no grid.
        """
        raise WeightError(f"{self._named()}: {self.why_not_solvable}")

    def grid(self, encoded: E) -> LevelGrid:
        """The grid that an encoded weight is on; its values are those of ``decode``, bit for bit.

        Float16 zero points are an exception: (code - zero) * scale is rounded twice in other places than code * scale -
        zero * scale, which differs by some 2^-23 of the larger term.

        Raises:
            WeightError: the format has no grid.
        """
        raise WeightError(f"{self._named()}: {self.why_not_solvable}")

    def scale_planes(self, step: FloatArray, shift: FloatArray) -> Planes:
        """Planes of the grid nearest to this one.

        Raises:
            WeightError: its scales cannot be chosen.
        """
        raise WeightError(f"{self._named()}: {self.why_scales_fixed}")

    def place(self, encoded: E, indices: Indices) -> E:
        """The weight with other codes.

        Args:
            encoded: a weight of this format.
            indices: indices of levels of its grid, uint8 [rows, cols].

        Raises:
            WeightError: the format has no grid.
        """
        return replace(encoded, planes={**encoded.planes, "codes": self.levels()[1][indices]})

    def fit(self, encoded: E, step: FloatArray, shift: FloatArray) -> E:
        """The weight with the same codes on a grid as near to this one as the format can store.

        Where scales are small integers times a float16 that is subnormal, its own grid may come back slightly changed.

        Args:
            encoded: a weight of this format.
            step: finite steps in the shape that the step of its grid has.
            shift: finite shifts in the same shape; ignored where the format has none to choose.

        Raises:
            WeightError: its scales cannot be chosen (``why_scales_fixed``).
        """
        if self.why_scales_fixed:
            raise WeightError(f"{self._named()}: {self.why_scales_fixed}")
        return replace(encoded, planes={**encoded.planes, **self.scale_planes(step, shift)})

    def _named(self) -> str:
        return f"format {getattr(self, 'name', type(self).__name__)}"
