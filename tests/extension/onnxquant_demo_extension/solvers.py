"""Solver ``demo-solver``: rounding towards zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.matrix import Matrix
from onnxquant.native import dispatch
from onnxquant.solvers.base import Inputs, Solver


@dataclass(frozen=True)
class DemoSolver(Solver):
    """Rounding of a weight that is a little smaller: what the demo shows is that it was asked."""

    name = "demo-solver"

    def _solve(self, form: Format, weight: Matrix, inputs: Inputs | None, start: Encoded | None) -> Encoded:
        return start or dispatch.rounded_to_nearest(form, weight * np.float32(0.999))
