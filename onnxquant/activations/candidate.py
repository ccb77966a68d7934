"""A candidate of the search for static activations: one way to quantize a model, with its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations.calibrated import CalibratedModel
from onnxquant.activations.placement import Placement
from onnxquant.activations.plan import ActivationPlan, StaticActivations
from onnxquant.numerics.score import Score


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to quantize a model's activations, with its score.

    Attributes:
        plan: the model with its biases corrected, its conversions and its solved weights.
        static: the activations of the plan.
        score: closeness of its outputs to the float model's.
        model: the calibrated model that it was made of.
        placement: the units that compute on integers.
        corrections: corrections of the biases of all kernels of that model.
        changes: changes that lead from the original to that model.
        methods: score of each calibration method that was tried on that model.
        solver: solver that has chosen codes of weights; empty: they are rounded to nearest.
    """

    plan: ActivationPlan
    static: StaticActivations
    score: Score
    model: CalibratedModel
    placement: Placement
    corrections: Mapping[str, NDArray[np.float64]]
    changes: tuple[str, ...] = ()
    methods: Mapping[str, float] = field(default_factory=dict)
    solver: str = ""

    @property
    def title(self) -> str:
        """Its name in reports."""
        return ", ".join(self.changes) or "as it is"
