"""Plans of integer activations: the result of the search, for the encoding of weights and for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx

from onnxquant.activations.insert import NodeForms, insert_conversions
from onnxquant.activations.placement import Cause, FloatKernel, QuantizedTensor
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document
from onnxquant.numerics.score import UnseenOutputs
from onnxquant.observers.codes import Codes
from onnxquant.observers.histogram import HistogramSummary
from onnxquant.plan.activations import DynamicRecord, SampleUse, StaticRecord, TensorCodes
from onnxquant.plan.planner import NO_INTEGER_SITES, IntegerSites


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """The scores of a search, for reports.

    Attributes:
        methods: score of each calibration method that was tried, in decibels.
        functions: score of each function that was tried, in decibels: the model itself, then equal functions.
        calibrated: number of samples that ranges were found on.
        judged: number of samples that candidates were scored on.
        folds: number of folds of the samples, each judged by what the others make; 0: they are not divided.
        apart: whether nothing that is judged on a sample was made from its source.
        unseen: quality of what samples get that have not made it; None where samples are not in folds.
        solver: solver of the weights' codes; empty: they are rounded to nearest.
        not_solved: weights that are rounded to nearest all the same.
        skipped: ways that there was no time for.
    """

    methods: Mapping[str, float]
    functions: Mapping[str, float]
    calibrated: int
    judged: int
    apart: bool
    folds: int = 0
    unseen: UnseenOutputs | None = None
    solver: str = ""
    not_solved: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def added_to(self, record: StaticRecord) -> StaticRecord:
        """A record of activations with the scores of the search."""
        return replace(
            record,
            tried=_rounded(self.methods),
            variants=_rounded(self.functions),
            samples=SampleUse(self.calibrated, self.judged, self.apart, self.folds or None),
            skipped=self.skipped or None,
            solver=self.solver or None,
            not_solved=self.not_solved if self.solver else None,
        )


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(score, 2) for name, score in scores.items()}


@dataclass(frozen=True, kw_only=True)
class StaticActivations:
    """Activations rounded to codes of fixed ranges.

    Attributes:
        codes: type of the codes.
        tensors: the quantized tensors.
        ranges: lowest and highest value of each source.
        method: calibration method that chose the ranges.
        forms: nodes around kernels to write in another form.
        integer_kernels: number of kernels that compute on integers.
        float_kernels: kernels that stay in float, by name.
        balanced: number of tensors whose channels were balanced.
        corrected_biases: number of kernels whose bias was corrected.
        search: scores of the search; None where there was none.
        histograms: histograms of the tensors, by name, for reports alone.
        rescaled: weights that differ from the original's, those of an equal function.
    """

    codes: Codes
    tensors: tuple[QuantizedTensor, ...]
    ranges: Mapping[str, tuple[float, float]]
    method: str
    forms: NodeForms = field(default_factory=NodeForms)
    integer_kernels: int = 0
    float_kernels: Mapping[str, FloatKernel] = field(default_factory=dict)
    balanced: int = 0
    corrected_biases: int = 0
    search: SearchRecord | None = None
    histograms: Mapping[str, HistogramSummary] = field(default_factory=dict)
    rescaled: tuple[str, ...] = ()

    def insert(self, proto: onnx.ModelProto) -> None:
        """Insert the conversions into a model whose weights are lowered; its tensors have the names that they had before."""
        insert_conversions(proto, self.codes, self.tensors, self.ranges, self.forms)

    @property
    def unseen(self) -> UnseenOutputs | None:
        """The quality of what samples get that have not made it; None where it was not judged."""
        return self.search.unseen if self.search else None

    @property
    def slow_on_clients(self) -> Mapping[str, str]:
        """Kernels that stay in float for clients of the file, with the reason."""
        return {name: kernel.reason for name, kernel in self.float_kernels.items() if kernel.cause is Cause.CLIENT}

    @property
    def record(self) -> StaticRecord:
        """The part of the file's metadata, and of reports, that is about activations."""
        in_float = {n: kernel.reason for n, kernel in self.float_kernels.items() if kernel.cause is not Cause.DYNAMIC}
        record = StaticRecord(
            code_type=str(self.codes.dtype),
            symmetric=self.codes.symmetric,
            method=self.method,
            tensors={t.name: self._tensor(t) for t in self.tensors},
            integer_kernels=self.integer_kernels + len(self.float_kernels) - len(in_float),
            left_in_float=in_float,
            excluded=tuple(n for n, kernel in self.float_kernels.items() if kernel.cause is Cause.ACCURACY) or None,
            balanced=self.balanced,
            biases_corrected=self.corrected_biases,
            rescaled=self.rescaled,
        )
        return self.search.added_to(record) if self.search else record

    def _tensor(self, tensor: QuantizedTensor) -> TensorCodes:
        low, high = self.ranges[tensor.source]
        scale, zero_point = self.codes.parameters(low, high)
        return TensorCodes(low, high, float(scale), int(zero_point))


@dataclass(frozen=True, kw_only=True)
class DynamicActivations:
    """Activations rounded per call by the operator that reads them: DynamicQuantizeMatMul in place of a product.

    Attributes:
        integer_kernels: number of kernels that compute on integers.
        rescaled: weights that differ from the original's, those of an equal function.
        slow_on_clients: weights whose products stay in float for clients of the file, with the reason.
    """

    integer_kernels: int
    rescaled: tuple[str, ...] = ()
    slow_on_clients: Mapping[str, str] = field(default_factory=dict)

    def insert(self, proto: onnx.ModelProto) -> None:
        """Insert nothing: DynamicQuantizeMatMul quantizes activations itself."""

    @property
    def histograms(self) -> dict[str, HistogramSummary]:
        """Histograms of activations: none, as nothing was calibrated."""
        return {}

    @property
    def unseen(self) -> UnseenOutputs | None:
        """None: nothing is made of samples but factors of channels."""
        return None

    @property
    def record(self) -> DynamicRecord:
        """The part of the file's metadata, and of reports, that is about activations."""
        return DynamicRecord(integer_kernels=self.integer_kernels, rescaled=self.rescaled)


@dataclass(frozen=True)
class ActivationPlan:
    """The result of a search: the model to encode, and its integer activations.

    Attributes:
        document: the float model, its weights as they are to be encoded.
        sites: sites that integer activations decide.
        activations: conversions to insert; None: activations stay floats.
        solved: weights by site whose codes a solver has chosen already.
    """

    document: Document
    sites: IntegerSites = NO_INTEGER_SITES
    activations: StaticActivations | DynamicActivations | None = None
    solved: Mapping[str, Encoded] = field(default_factory=dict)
