"""Settings of the search for static activations, taken from the options of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from onnxquant.activations.balance import STRENGTH
from onnxquant.activations.weights import OPSET, WIDE_OPSET
from onnxquant.observers.codes import Codes
from onnxquant.recipe.options import Options
from onnxquant.recipe.values import Drop, Effort
from onnxquant.solvers.gptq import Gptq
from onnxquant.solvers.rtn import Rtn
from onnxquant.targets import AUTO, Activations

# Methods that ``auto`` tries on the whole model; the best is taken.
AUTO_METHODS = ("minmax", "mse", "percentile")
# The goal of auto_exclude where no bound is given.
DEFAULT_GOAL_DB = 25.0


@dataclass(frozen=True, kw_only=True)
class AccuracyGoal:
    """The accuracy with which no more kernels have to stay in float.

    Attributes:
        min_sqnr_db: smallest signal to noise ratio of the outputs; None: only the metric counts.
        metric: the user's metric, a function of a session or ``module:function``; None: only the ratio counts.
        max_drop: largest loss of the metric.
    """

    min_sqnr_db: float | None = DEFAULT_GOAL_DB
    metric: str | Callable[..., float] | None = None
    max_drop: Drop = field(default_factory=lambda: Drop(0.0, relative=False))

    @classmethod
    def of(cls, options: Options) -> Self:
        """The goal that the options of a run ask for."""
        default = DEFAULT_GOAL_DB if options.metric is None else None
        ratio = default if options.min_sqnr is None else options.min_sqnr
        return cls(min_sqnr_db=ratio, metric=options.metric, max_drop=Drop.parse(options.max_drop))


@dataclass(frozen=True, kw_only=True)
class StaticSettings:
    """The ways to quantize activations that a search may try.

    Attributes:
        codes: type of the codes.
        methods: calibration methods to try.
        parameters: parameters of calibration methods: ``{"percentile": {"percentile": 99.9}, "mean-std": {"k": 3}}``.
        balance: strength of balancing channels before depthwise convolutions; 0: none.
        correct_biases: whether biases are corrected.
        smooth: whether smoothed functions are tried.
        smoothing_muls: whether these may have nodes of their own.
        equalize: whether an equalized function is tried.
        rebase: whether linear streams in another basis are tried.
        keeps_zeros: whether weights were pruned: zeros stay zeros, and no weight gets another basis.
        solver: solver of the weights' codes; ``auto``: gptq where it scores better.
        goal: accuracy that kernels are left in float for; None: no kernel is.
        threads: number of threads of a session; None: ONNX Runtime's choice.
        judge: outputs, or parts of them, that matter; empty: all.
        effort: time that the search may take.
        seconds: the same as a number; None: the effort decides.
    """

    codes: Codes = field(default_factory=Codes)
    methods: tuple[str, ...] = AUTO_METHODS
    parameters: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    balance: float = STRENGTH
    correct_biases: bool = True
    smooth: bool = True
    smoothing_muls: bool = True
    equalize: bool = True
    rebase: bool = True
    keeps_zeros: bool = False
    solver: str = AUTO
    goal: AccuracyGoal | None = None
    threads: int | None = None
    judge: tuple[str, ...] = ()
    effort: Effort = Effort.MEDIUM
    seconds: float | None = None

    @classmethod
    def of(cls, options: Options, *, keeps_zeros: bool = False) -> Self:
        """The settings that the options of a run ask for.

        Args:
            options: the options.
            keeps_zeros: whether weights were pruned.
        """
        return cls(
            codes=codes_of(options),
            methods=AUTO_METHODS if options.calibration_method == AUTO else (options.calibration_method,),
            parameters={
                "percentile": _without_none(percentile=options.percentile),
                "mean-std": _without_none(k=options.sigmas),
            },
            balance=STRENGTH if options.balance else 0.0,
            correct_biases=options.bias_correction,
            smooth=options.smooth,
            smoothing_muls=options.smoothing_muls,
            equalize=options.equalize,
            rebase=options.rebase and not keeps_zeros,
            keeps_zeros=keeps_zeros,
            solver=options.solver,
            goal=AccuracyGoal.of(options) if options.auto_exclude else None,
            threads=options.threads,
            judge=options.judge,
            effort=Effort(options.effort),
            seconds=options.seconds(),
        )

    def without_samples(self) -> Self:
        """The settings of a plan that no samples judge: the first method, and nothing that samples would choose."""
        first = replace(self, methods=self.methods[:1], solver=Rtn.name, correct_biases=False)
        return replace(first, smooth=False, equalize=False, rebase=False)

    @property
    def may_solve(self) -> bool:
        """Whether codes of weights may be chosen by ``weight_solver``."""
        return self.weight_solver != Rtn.name

    @property
    def weight_solver(self) -> str:
        """Name of the solver that codes of weights may be chosen by."""
        return Gptq.name if self.solver == AUTO else self.solver


def codes_of(options: Options) -> Codes:
    """The type of the codes that the options of a run ask for."""
    return Codes.named(options.activation_type, symmetric=options.symmetric_activations)


def required_opset(options: Options) -> int:
    """The smallest opset that a model with these activations needs: 13 for Q/DQ, 21 for 16-bit codes; 0: any."""
    if options.activations != Activations.STATIC:
        return 0
    return WIDE_OPSET if codes_of(options).bits > 8 else OPSET


def _without_none(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
