"""The data of a report: decisions, the written file, and its proof."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.budget.result import FormatSearchResult
from onnxquant.calibration.feeds import Assumption
from onnxquant.graph.io import Document, load
from onnxquant.json_data import OPTIONAL, JsonObject, JsonValue
from onnxquant.numerics.classes import AnswerKind
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.numerics.unseen import UnseenQuality
from onnxquant.observers.histogram import HistogramSummary
from onnxquant.plan.activations import ActivationRecord
from onnxquant.plan.decision import Decision, EncodeDecision, Plan
from onnxquant.plan.tuning import TuningRecord
from onnxquant.pruning.records import PruningRecord
from onnxquant.report.state import State
from onnxquant.validation.checks import WeightChecks
from onnxquant.validation.latency import Interval
from onnxquant.validation.proof import Proof, WeightProof
from onnxquant.version import __version__


@dataclass(frozen=True)
class Float16Error:
    """Error of a tensor that became float16.

    Attributes:
        sqnr_db: signal to noise ratio in decibels.
        mse: mean squared error.
        flushed: number of values that became zero.
        subnormal: number of values that lost digits because they are small.
    """

    sqnr_db: float
    mse: float
    flushed: int
    subnormal: int


@dataclass(frozen=True)
class SiteResult:
    """One constant weight.

    Attributes:
        decision: the decision about it, with the reason.
        error: its error once it is encoded; None before, and where it stays in float.
        checks: quick checks of the proof; None where there are none.
        warning: why its format does not suit it; None where it does.
        kernel: ops that onnxruntime runs on it; None where they are not known.
    """

    decision: Decision
    error: ErrorFigures | Float16Error | None = None
    checks: WeightChecks | None = None
    warning: str | None = None
    kernel: str | None = None


@dataclass(frozen=True)
class Request:
    """The request of the user.

    Attributes:
        recipe: rules in order.
        options: options that were given, by name.
    """

    recipe: list[JsonObject] = field(default_factory=list)
    options: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class FileHashes:
    """SHA-256 by file name, of the original's files and of the output's; None where they were not taken."""

    original: dict[str, str] | None = field(default=None, metadata=OPTIONAL)
    output: dict[str, str] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Verdict:
    """The verdict of a report.

    Attributes:
        state: result of the conversion, or its last step.
        smaller: bytes before over bytes after (predicted ones of a plan); None where they are not known.
        faster: time before over time after; None where they were not measured.
        worst_sqnr_db: SQNR of the worst output, infinite where all are exact; None where none was compared.
        worst_output: name of the worst output.
        encoded, weights: number of weights that were encoded, and of all constants.
        next: the next step, in one sentence.
        faster_interval: interval that holds ``faster`` 19 times of 20; None where it is not known.
        worst_tenth_db: SQNR of the worst output over the worst tenth of the samples; None for fewer than ten.
        same, answers: number of answers that are the same, and of all, where the fewest are; None where there are none.
        answer: kind of these answers, a value of ``AnswerKind``.
        answers_of: the output that they are of, where there are several.
        unseen: quality to expect on samples of other sources; None where nothing tells it.
        assumption: part of the samples' preparation that the user has to confirm; None: there is none.
    """

    state: State
    smaller: float | None
    faster: float | None
    worst_sqnr_db: float | None
    worst_output: str | None
    encoded: int
    weights: int
    next: str
    faster_interval: Interval | None = field(default=None, metadata=OPTIONAL)
    worst_tenth_db: float | None = field(default=None, metadata=OPTIONAL)
    same: int | None = field(default=None, metadata=OPTIONAL)
    answers: int | None = field(default=None, metadata=OPTIONAL)
    answer: str | None = field(default=None, metadata=OPTIONAL)
    answers_of: str | None = field(default=None, metadata=OPTIONAL)
    unseen: UnseenQuality | None = field(default=None, metadata=OPTIONAL)
    assumption: Assumption | None = field(default=None, metadata=OPTIONAL)

    @property
    def judged_answers(self) -> str:
        """The number of answers that are the same, of all, in figures; empty where no answers judge the file."""
        return f"{self.same} of {self.answers}" if self.answers and self.answer != AnswerKind.LARGEST else ""

    @property
    def answers_in_words(self) -> str:
        """The number of answers that are the same; empty where there are none."""
        if not self.answers:
            return ""
        output = f" of {self.answers_of}" if self.answers_of else ""
        if self.answer == AnswerKind.LARGEST:
            return f"the largest value{output} in the same place in {self.same} of {self.answers} rows"
        return f"{self.same} of {self.answers} {self.answer}{output} the same"


@dataclass(frozen=True)
class Attempt:
    """One way of quantizing a model, tried as a whole file.

    Attributes:
        way: name of the way.
        options: keywords of ``quantize`` that make it.
        seconds: time that it took, the proof included.
        nbytes: size of the file; None where none was made.
        verdict: verdict on the file; None where none was made.
        objection: reason why it was not taken; empty for the file that was.
        pareto: whether no other file that keeps the bound is both smaller and faster.
        integer_kernels, kernels: number of ops with a weight that compute on integers, and of all; None: not known.
    """

    way: str
    options: Mapping[str, JsonValue]
    seconds: float
    nbytes: int | None = field(default=None, metadata=OPTIONAL)
    verdict: Verdict | None = field(default=None, metadata=OPTIONAL)
    objection: str = ""
    pareto: bool = False
    integer_kernels: int | None = field(default=None, metadata=OPTIONAL)
    kernels: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Choice:
    """The choice among the ways that can suit a model.

    Attributes:
        goal: measure that decided among files.
        bound: the quality that every file has to keep, in words.
        keeps_bound: whether the chosen file keeps it; if none does, the one with the best outputs is taken.
        chosen: name of the way that was taken.
        attempts: the ways that were tried, in that order.
        skipped: ways that there was no time for.
        reason: why the chosen file is the best, in one sentence.
        interrupted: whether Ctrl-C or a signal ended the search before its time.
        alternative: better file for the goal that misses the bound, and the option that takes it; empty: there is none.
    """

    goal: str
    bound: str
    keeps_bound: bool
    chosen: str
    attempts: tuple[Attempt, ...]
    skipped: tuple[str, ...] = ()
    reason: str = ""
    interrupted: bool = False
    alternative: str = ""

    def proven(self, verdict: Verdict) -> Choice:
        """The choice with the verdict of the chosen file's proof in the place of that of its look."""
        rows = tuple(replace(row, verdict=verdict) if row.way == self.chosen else row for row in self.attempts)
        return replace(self, attempts=rows)


@dataclass(frozen=True)
class Judgement:
    """Verdict and warnings of a report that was saved."""

    verdict: Verdict
    warnings: list[str]


@dataclass
class ReportData:
    """Fields of a report, and the figures that follow from them.

    Attributes:
        source: name of the original model.
        output: file that was or would be written, or compared; None: it has no name.
        sites: every constant weight.
        notes: changes that passes made.
        unused_rules: rules of the recipe that matched nothing, counted from 1.
        predicted_bytes: size that the plan predicts.
        original_bytes, output_bytes: sizes on disk, data files included.
        external_data: whether the output has a data file.
        activations: integer activations; None where activations stay floats.
        search: result of the search for formats; None where the formats were given.
        choice: choice among whole files; None where the way was given.
        tuning: figures of tuning; None where nothing was learned.
        pruning: figures of pruning; None where nothing was pruned.
        kept_codes: operators on codes of another program, whose codes and scales stay, where the file has nothing else to
            quantize; None otherwise.
        prospect: gain that samples would bring, in one sentence; empty where there are samples, or the way was given.
        observed: histograms of static activations, by tensor.
        request: the request of the user; None where it is not known.
        command: the command line; None where there was none.
        hashes: hashes of the files.
        environment: versions and machine.
        proof: the comparison with the original; None where none was asked for.
        judgement: verdict and warnings as they were saved; None: they follow from the fields.
    """

    source: str
    output: str | None = None
    sites: list[SiteResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused_rules: list[int] = field(default_factory=list)
    predicted_bytes: int | None = None
    original_bytes: int = 0
    output_bytes: int | None = None
    external_data: bool = False
    activations: ActivationRecord | None = None
    search: FormatSearchResult | None = None
    choice: Choice | None = None
    tuning: TuningRecord | None = None
    pruning: PruningRecord | None = None
    kept_codes: str | None = None
    prospect: str = ""
    observed: dict[str, HistogramSummary] = field(default_factory=dict)
    request: Request | None = None
    command: str | None = None
    hashes: FileHashes = field(default_factory=FileHashes)
    environment: dict[str, str] = field(default_factory=lambda: environment())
    proof: Proof | None = None
    judgement: Judgement | None = None

    @classmethod
    def of_plan(cls, original: Document, output: Path, plan: Plan, notes: list[str]) -> Self:
        """The report of a plan that is not carried out yet."""
        return cls(
            source=original.name,
            output=str(output),
            sites=[SiteResult(d) for d in plan.decisions],
            notes=notes,
            unused_rules=[i + 1 for i in plan.unused_rules],
            predicted_bytes=plan.predicted_bytes,
            original_bytes=original.size(),
            activations=plan.activation_record,
            observed=plan.observed,
        )

    def finish(self, path: Path, results: Mapping[str, SiteResult]) -> None:
        """Add the results of encoding and the size of the output.

        Args:
            path: the output.
            results: encoded weights by name.
        """
        self.sites = [results.get(s.decision.name, s) for s in self.sites]
        written = load(path)
        self.external_data = written.is_external()
        self.output_bytes = written.size()

    def prove(self, proof: Proof) -> None:
        """Add the proof."""
        self.proof = proof
        self.activations = self.activations or proof.activations.record
        self.sites = [_proven(s, proof.weights.get(s.decision.name)) for s in self.sites]

    @property
    def planned(self) -> bool:
        """Whether nothing was written yet."""
        return self.output_bytes is None and self.proof is None

    @property
    def final_bytes(self) -> int | None:
        """Size of the output, or its prediction where nothing is written."""
        return self.output_bytes or self.predicted_bytes

    @property
    def ratio(self) -> float | None:
        """Size of the original over that of the output; None where nothing is written."""
        return self.original_bytes / self.output_bytes if self.output_bytes else None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits over all constant weights; None where they are not listed."""
        elements = sum(s.decision.elements for s in self.sites)
        return 8 * sum(s.decision.nbytes for s in self.sites) / elements if elements else None

    @property
    def encoded(self) -> list[SiteResult]:
        """Weights that were, or will be, encoded."""
        return [s for s in self.sites if isinstance(s.decision, EncodeDecision)]

    @property
    def problems(self) -> list[str]:
        """Reasons why the proof failed."""
        return [str(p) for p in self.proof.problems] if self.proof else []


def _proven(site: SiteResult, weight: WeightProof | None) -> SiteResult:
    """A site with the results of its proof."""
    return site if weight is None else replace(site, checks=weight.checks, kernel=weight.kernel)


def environment() -> dict[str, str]:
    """Versions and machine, for whoever reads the figures later."""
    return {
        "onnxquant": __version__,
        "onnxruntime": runtime.version(),
        "onnx": str(onnx.__version__),
        "numpy": str(np.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "instruction_sets": ", ".join(runtime.instruction_sets()),
    }
