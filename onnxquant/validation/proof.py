"""The proof of a quantized model: results of the comparison with its original."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.json_data import EMPTY, INLINE, OPTIONAL, JsonKey
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.numerics.score import PartQuality
from onnxquant.numerics.unseen import UnseenQuality
from onnxquant.plan.activations import ActivationRecord
from onnxquant.validation.accuracy import Accuracy
from onnxquant.validation.checks import WeightChecks
from onnxquant.validation.contributions import SiteContribution
from onnxquant.validation.distribution import Distribution
from onnxquant.validation.examples import Example
from onnxquant.validation.footprint import Footprint
from onnxquant.validation.latency import Latency
from onnxquant.validation.leftover_conversions import LeftoverConversion
from onnxquant.validation.metric import MetricResult
from onnxquant.validation.op_times import OpTime
from onnxquant.validation.outputs import DEPLOYED, OutputErrors, Run, pair_name
from onnxquant.validation.saturation import SaturationLoss


class ProblemKind(Enum):
    """Kinds of reasons why a proof fails."""

    DEFECT = auto()
    """The file is not what it should be."""

    MISSED_BOUND = auto()
    """The file is what it should be, and loses more than the user allows."""

    NOT_COMPARED = auto()
    """There are no samples to compare outputs on."""


@dataclass(frozen=True)
class Problem:
    """One reason why a proof fails."""

    text: str
    kind: ProblemKind = ProblemKind.DEFECT

    def __str__(self) -> str:
        return self.text


class BothSides(NamedTuple):
    """A number of the original model, and the same of the quantized one."""

    original: int
    quantized: int


_NONE = BothSides(0, 0)


@dataclass(frozen=True)
class Structure:
    """Comparison of the two graphs.

    Attributes:
        inputs, outputs: number of inputs and outputs.
        opset: opsets of both.
        nodes: number of nodes of both.
        stored_tensors: number of constant tensors of both.
        weights_encoded: number of encoded weights.
        added_ops, removed_ops: number of nodes by op that one graph has more than the other.
        explained_by: the reason for the differences.
    """

    inputs: int = 0
    outputs: int = 0
    opset: BothSides = _NONE
    nodes: BothSides = _NONE
    stored_tensors: BothSides = _NONE
    weights_encoded: int = 0
    added_ops: dict[str, int] = field(default_factory=dict)
    removed_ops: dict[str, int] = field(default_factory=dict)
    explained_by: str = ""


@dataclass(frozen=True)
class WeightProof:
    """Comparison of one encoded weight with the original.

    Attributes:
        format, target: form in which the file holds it.
        dtype: the type that products with it have.
        error: error of the decoded values.
        checks: quick checks; None where values are not finite.
        kernel: ops that onnxruntime runs on it; None where they are not known.
    """

    format: str
    target: str
    dtype: str
    error: ErrorFigures = field(metadata=INLINE)
    checks: WeightChecks | None = field(default=None, metadata=INLINE)
    kernel: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Loading:
    """Footprints of both models; the shorter file need not have the smaller one."""

    original: Footprint
    quantized: Footprint


@dataclass
class RunOps:
    """Number of nodes by op in the graph that onnxruntime runs.

    Attributes:
        stock: the graph without our library; None where it was not looked at.
        library: the graph with our library; None for files without our ops.
    """

    stock: dict[str, int] | None = field(default=None, metadata=OPTIONAL)
    library: dict[str, int] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Sizes:
    """Sizes of both models, data files included, and the original's over the quantized one's."""

    original_bytes: int = 0
    quantized_bytes: int = 0
    ratio: float = 0.0


@dataclass
class ActivationProof:
    """Results about integer activations; all None where activations are floats.

    Attributes:
        record: activations as the file describes them.
        saturation: losses by kernel on x86 CPUs without VNNI.
        conversions: conversions that onnxruntime runs.
    """

    record: ActivationRecord | None = field(default=None, metadata=JsonKey("made", optional=True).metadata)
    saturation: dict[str, SaturationLoss] | None = field(default=None, metadata=OPTIONAL)
    conversions: list[LeftoverConversion] | None = field(default=None, metadata=OPTIONAL)


@dataclass
class Proof:
    """Results of the comparison of a quantized model with its original.

    Attributes:
        structure: differences of the graphs.
        weights: comparison of each encoded weight.
        distributions: histograms of each encoded weight; None where no value is finite.
        outputs: errors by pair of runs ("float vs twin") and output.
        quality: quality of the outputs that users get, the worst part first; None in old reports.
        examples: samples that show what was lost; None where there are none.
        unseen: quality to expect on samples of other sources; None where nothing tells it. The figures of ``quality`` are
            then those of samples that have not made what was judged on them.
        feeds: source of the samples; None where there are none.
        latency: seconds per call; None where they were not measured.
        op_times: time of a call by operator, the longest first; None where they were not measured.
        loading: time and memory of loading; None where they were not measured.
        kernels: ops that onnxruntime runs.
        sizes: sizes of the files.
        activations: results about integer activations.
        metric: the user's own metric; None where there is none.
        accuracy: accuracy of both models; None where samples have no labels, or it is not known.
        no_accuracy: reason why it is not known, where samples have labels.
        contributions: contributions of single sites to the error, the largest first, where they were asked for.
        notes: remarks that do not make the proof fail.
        problems: reasons why the proof fails.
    """

    structure: Structure = field(default_factory=Structure)
    weights: dict[str, WeightProof] = field(default_factory=dict)
    distributions: dict[str, Distribution | None] = field(default_factory=dict)
    outputs: dict[str, OutputErrors] = field(default_factory=dict)
    quality: list[PartQuality] | None = field(default=None, metadata=OPTIONAL)
    examples: list[Example] | None = field(default=None, metadata=OPTIONAL)
    unseen: UnseenQuality | None = field(default=None, metadata=OPTIONAL)
    feeds: SampleOrigin | None = field(default=None, metadata=EMPTY)
    latency: Latency | None = field(default=None, metadata=EMPTY)
    op_times: list[OpTime] | None = field(default=None, metadata=OPTIONAL)
    loading: Loading | None = field(default=None, metadata=EMPTY)
    kernels: RunOps = field(default_factory=RunOps)
    sizes: Sizes = field(default_factory=Sizes)
    activations: ActivationProof = field(default_factory=ActivationProof)
    metric: MetricResult | None = field(default=None, metadata=EMPTY)
    accuracy: Accuracy | None = field(default=None, metadata=OPTIONAL)
    no_accuracy: str | None = field(default=None, metadata=OPTIONAL)
    contributions: list[SiteContribution] = field(default_factory=list, metadata=JsonKey("damage").metadata)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def errors(self, reference: Run, other: Run) -> OutputErrors:
        """Errors by output of one run against another; empty where they were not compared."""
        return self.outputs.get(pair_name(reference, other), {})

    @property
    def deployed(self) -> OutputErrors:
        """Errors by output that the user gets: as deployed, or with float compute where the model is too large."""
        return next((errors for run in DEPLOYED if (errors := self.errors(Run.FLOAT, run))), {})
