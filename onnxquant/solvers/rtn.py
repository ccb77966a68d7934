"""rtn: rounding to nearest, as the format defines it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.solvers.base import Inputs, Solver, rounded


@dataclass(frozen=True)
class Rtn(Solver):
    """Rounding to nearest: each weight by itself."""

    name = "rtn"
    serves_static_activations = True

    def refusal(self, form: Format) -> str | None:
        """None: every format can round to nearest."""
        return None

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        if start is None:
            return dispatch.rounded_to_nearest(form, weight)
        return start if form.why_not_solvable else rounded(start, weight, self.split)
