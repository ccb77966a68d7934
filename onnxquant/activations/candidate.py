"""A candidate of the search for static activations: one way to quantize a model, with its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxquant.activations.bias import Corrections
from onnxquant.activations.calibrated import CalibratedModel
from onnxquant.activations.placement import Cause, FloatKernel, Placement
from onnxquant.activations.plan import ActivationPlan, StaticActivations
from onnxquant.numerics.arrays import Doubles
from onnxquant.numerics.score import Score


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to quantize a model's activations, with its score.

    Attributes:
        plan: the model with its biases corrected, its conversions and its solved weights.
        static: the activations of the plan.
        score: closeness of its outputs to the float model's; of each fold that of what the other folds make.
        model: the calibrated model that it was made of.
        placement: the units that compute on integers.
        corrections: corrections of the biases of all kernels of that model.
        changes: changes that lead from the original to that model.
        methods: score of each calibration method that was tried on that model.
        solver: solver that has chosen codes of weights; empty: they are rounded to nearest.
        sums: weights with larger scales, with the largest sum of two products in each row, as a multiple of what fits.
        rounded: the same with weights rounded to nearest, which the score is of; None: it is this one.
    """

    plan: ActivationPlan
    static: StaticActivations
    score: Score
    model: CalibratedModel
    placement: Placement
    corrections: Corrections
    changes: tuple[str, ...] = ()
    methods: Mapping[str, float] = field(default_factory=dict)
    solver: str = ""
    sums: Mapping[str, Doubles] = field(default_factory=dict)
    rounded: Candidate | None = None

    @property
    def kernels_for_accuracy(self) -> dict[str, FloatKernel]:
        """The kernels that it leaves in float for accuracy."""
        kernels = self.static.float_kernels.items()
        return {name: kernel for name, kernel in kernels if kernel.cause in (Cause.ACCURACY, Cause.LOSS)}

    @property
    def title(self) -> str:
        """Its name in reports."""
        return ", ".join(self.changes) or "as it is"
