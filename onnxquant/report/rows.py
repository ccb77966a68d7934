"""Rows of the tables that every form of a report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from onnxquant.budget.result import ChoiceFigures
from onnxquant.calibration.feeds.prepared import preparation as prepared
from onnxquant.json_data import JsonValue
from onnxquant.numerics.difference import ErrorFigures
from onnxquant.plan.activations import ActivationRecord, StaticRecord
from onnxquant.report.data import Float16Error, ReportData, SiteResult
from onnxquant.report.units import decibels, figure, milliseconds, size, speed
from onnxquant.validation.checks import WeightChecks
from onnxquant.validation.examples import Example
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, STOCK, Latency
from onnxquant.validation.op_times import OpTime
from onnxquant.validation.proof import Proof

# Field of a row, title of its column, and whether it is a number.
SITES = (
    ("name", "weight", False), ("role", "role", False), ("shape", "shape", False), ("format", "format", False),
    ("solver", "solver", False), ("target", "target", False), ("kernel", "kernel", False), ("bytes", "bytes", True),
    ("bits", "bits", True), ("ratio", "ratio", True), ("sqnr_db", "SQNR dB", True), ("mse", "MSE", True),
    ("max_error", "max error", True), ("mean_error", "mean error", True), ("sum_test", "sum test", True),
    ("gradient_test", "gradient z", True), ("why", "why", False),
)  # fmt: skip
# Titles of columns; ">" stands before those of numbers.
OUTPUTS = ("compared", "output", ">SQNR", ">cosine", ">MSE", ">max error", ">mean error")
PARTS = ("output", ">SQNR", ">worst tenth", ">worst sample", "same answers", "compared")
COSTS = ("", ">original", ">quantized", ">ratio")
REFUSALS = ("reason", ">weights", ">bytes", "such as")
CHOICES = (">bits per weight", ">SQNR, predicted", ">SQNR, measured")
CONTRIBUTIONS = ("site", "kind", ">SQNR", ">gain", ">share of the error")
FACTS = ("what", "value")
# Names that a row of refusals gives as examples.
_EXAMPLES = 3
_SATURATING = "without VNNI {share:.3g} % of its pairs saturate: {db:.1f} dB"


@dataclass(frozen=True)
class SiteRow:
    """One weight; fields that are not known are None.

    Attributes:
        in_float: whether it stays in float.
    """

    name: str
    in_float: bool = False
    role: str | None = None
    shape: str | None = None
    format: str | None = None
    solver: str | None = None
    target: str | None = None
    kernel: str | None = None
    bytes: int | None = None
    bits: float | None = None
    ratio: float | None = None
    error: ErrorFigures | Float16Error | None = None
    checks: WeightChecks | None = None
    why: str | None = None

    @property
    def sqnr_db(self) -> float | None:
        """SQNR of the decoded values."""
        return self.error.sqnr_db if self.error else None

    @property
    def mse(self) -> float | None:
        """Mean squared error of the decoded values."""
        return self.error.mse if self.error else None

    @property
    def max_error(self) -> float | None:
        """Largest magnitude of an error."""
        return self.error.max_error if isinstance(self.error, ErrorFigures) else None

    @property
    def mean_error(self) -> float | None:
        """Mean of the errors."""
        return self.error.mean_error if isinstance(self.error, ErrorFigures) else None

    @property
    def sum_test(self) -> float | None:
        """Relative error of the sum test."""
        return self.checks.sum_test.relative_error if self.checks else None

    @property
    def gradient_test(self) -> float | None:
        """Deviation of the gradient test."""
        return self.checks.gradient_test.z if self.checks else None

    def value(self, field: str) -> str | int | float | None:
        """The value of a column of ``SITES``."""
        entry: str | int | float | None = getattr(self, field)
        return entry

    @property
    def cells(self) -> list[str]:
        """The row as people read it."""
        return [figure(self.value(field)) for field, _, _ in SITES]


def sites(report: ReportData) -> list[SiteRow]:
    """A row per weight; of a comparison those that are encoded, with what the file says about them."""
    if report.sites:
        return [_site(s) for s in report.sites]
    weights = report.proof.weights if report.proof else {}
    return [
        SiteRow(name, format=w.format, target=w.target, kernel=w.kernel, error=w.error, checks=w.checks)
        for name, w in weights.items()
    ]


def used_columns(sites: Iterable[SiteRow]) -> list[tuple[str, str, bool]]:
    """The columns of ``SITES`` that are not empty."""
    listed = list(sites)
    return [column for column in SITES if any(site.value(column[0]) not in (None, "") for site in listed)]


def _site(site: SiteResult) -> SiteRow:
    """The row of one weight."""
    decision = site.decision
    return SiteRow(
        name=decision.name,
        in_float=decision.format is None,
        role=decision.role,
        shape="x".join(map(str, decision.shape)),
        format=decision.format.name if decision.format else decision.dtype,
        solver=decision.solver if decision.format else None,
        target=decision.target,
        kernel=site.kernel,
        bytes=decision.nbytes,
        bits=round(decision.bits_per_weight, 4),
        ratio=round(decision.float_bytes / decision.nbytes, 4) if decision.nbytes else None,
        why=why(site),
        error=site.error,
        checks=site.checks,
    )


def why(site: SiteResult) -> str:
    """The reason for a decision, with the targets that were refused before."""
    decision = site.decision
    refused = f" (not {'; not '.join(decision.refusals)})" if decision.refusals and decision.format else ""
    return decision.reason + refused


@dataclass(frozen=True)
class Cost:
    """A cost before and after.

    Attributes:
        name: name of the cost.
        original, quantized: the figures.
        shown: function that makes text of a figure.
        measured: the ratio as it was measured; empty: it follows from the figures.
    """

    name: str
    original: float
    quantized: float
    shown: Callable[[float], str]
    measured: str = ""

    @property
    def before(self) -> str:
        """The original's figure as people read it."""
        return self.shown(self.original)

    @property
    def after(self) -> str:
        """The quantized model's figure as people read it."""
        return self.shown(self.quantized)

    @property
    def ratio(self) -> str:
        """The original's figure over the other one."""
        if self.measured:
            return self.measured
        return f"{self.original / self.quantized:.2f}x" if self.quantized else ""

    @property
    def cells(self) -> list[str]:
        """The row as people read it."""
        return [self.name, self.before, self.after, self.ratio]


def preparation(report: ReportData) -> str | None:
    """The steps from images or texts to inputs; None where samples are arrays, or nothing was proven."""
    feeds = report.proof.feeds if report.proof else None
    return prepared(feeds) if feeds else None


def costs(report: ReportData) -> list[Cost]:
    """Size, latency, load time and memory, those that are known."""
    proof, out = report.proof, []
    if after := report.final_bytes:
        name = "size" if report.output_bytes else "size, predicted"
        out.append(Cost(name, report.original_bytes, after, size))
    if proof and proof.latency:
        seconds = proof.latency.seconds
        for name, model in (("latency", QUANTIZED), ("latency without our library", STOCK)):
            if model in seconds:
                # Other work on the machine moves the ratio less than either time.
                quantized = seconds[ORIGINAL] / proof.latency.ratio[model]
                out.append(Cost(name, seconds[ORIGINAL], quantized, milliseconds, _speed(proof.latency, model)))
    if proof and proof.loading:
        before, now = proof.loading.original, proof.loading.quantized
        out.append(Cost("load time", before.seconds, now.seconds, milliseconds))
        out.append(Cost("memory", before.resident_bytes, now.resident_bytes, size))
    return out


def _speed(latency: Latency, model: str) -> str:
    """The ratio of processor times as people read it; empty where it was not measured."""
    return "" if latency.interval is None else speed(latency.ratio[model], latency.interval[model])


def op_times(report: ReportData) -> list[Cost]:
    """Time of a call by operator, the longest first."""
    times = (report.proof.op_times if report.proof else None) or []
    return [Cost(t.op, t.original, t.quantized, milliseconds, _change(t)) for t in times]


def longest(costs: Iterable[Cost]) -> float:
    """The largest figure, to which all bars are drawn."""
    return max((max(cost.original, cost.quantized) for cost in costs), default=1.0)


def _change(time: OpTime) -> str:
    """The ratio of an operator's times; words where one model has no such operator."""
    if not time.original or not time.quantized:
        return "new" if time.quantized else "gone"
    return f"{time.original / time.quantized:.2f}x"


def spread(latency: Latency) -> str:
    """The spread of the speed, and the way in which it was measured."""
    interval = latency.certain(QUANTIZED)
    disturbed = "" if interval.is_narrow else " The interval is wide: other work on the machine disturbed the measurement."
    return (
        f"{latency.runs} runs of each model, in turns; the ratio is {latency.ratio[QUANTIZED]:.2f}, and 19 times of 20 "
        f"between {interval.low:.2f} and {interval.high:.2f}.{disturbed}"
    )


def example_lines(example: Example) -> list[str]:
    """Lines about a sample: its name, its answers and the part that keeps least."""
    quality = example.quality
    lines = [example.file or f"sample {quality.sample}"]
    if quality.expected is not None:
        lines.append(f"answer {quality.expected} → {quality.answer}")
    if quality.changed and quality.answers != 1:
        lines.append(f"{quality.same} of {quality.answers} answers the same")
    if example.boxes:
        lines.append(f"{len(example.boxes.original)} → {len(example.boxes.quantized)} boxes")
    if quality.sqnr_db is not None:
        lines.append(f"{decibels(quality.sqnr_db)} in {quality.output}")
    return lines


def have_pictures(examples: Iterable[Example]) -> bool:
    """Whether samples are images."""
    return any(example.picture for example in examples)


def have_boxes(examples: Iterable[Example]) -> bool:
    """Whether there are boxes on a sample."""
    return any(example.boxes for example in examples)


def outputs(report: ReportData) -> list[list[str]]:
    """Errors of outputs, with the columns of ``OUTPUTS``."""
    pairs = report.proof.outputs if report.proof else {}
    return [
        [pair, name, decibels(e.sqnr_db), f"{e.cosine:.6f}", *map(figure, (e.mse, e.max_error, e.mean_error))]
        for pair, errors in pairs.items()
        for name, e in errors.items()
    ]


def parts(report: ReportData) -> list[list[str]]:
    """Quality of the outputs that users get, the worst part first, with the columns of ``PARTS``."""
    quality = (report.proof.quality if report.proof else None) or []
    return [
        [
            part.output,
            "" if part.sqnr_db is None else decibels(part.sqnr_db),
            "" if part.worst_tenth_db is None else decibels(part.worst_tenth_db),
            "" if part.worst_sample_db is None else f"{decibels(part.worst_sample_db)} (number {part.worst_sample})",
            f"{part.same} of {part.answers} {part.answer}" if part.answers else "",
            part.shape or "",
        ]
        for part in quality
    ]


def contributions(report: ReportData) -> list[list[str]]:
    """Contributions of sites to the error, with the columns of ``CONTRIBUTIONS``."""
    sites = report.proof.contributions if report.proof else []
    return [[c.name, c.kind, decibels(c.sqnr_db), f"{c.gain_db:+.2f} dB", f"{100 * c.share:.1f} %"] for c in sites]


def refusals(report: ReportData) -> list[list[str]]:
    """Reasons why weights stay in float or could not take a target, with the columns of ``REFUSALS``."""
    groups: dict[str, list[SiteResult]] = {}
    for site in report.sites:
        decision = site.decision
        kind = "target refused" if decision.format else "left in float"
        for reason in dict.fromkeys(decision.refusals if decision.format else [decision.reason]):
            groups.setdefault(f"{kind}: {reason}", []).append(site)
    order = sorted(groups.items(), key=lambda group: -sum(s.decision.float_bytes for s in group[1]))
    return [
        [
            reason,
            str(len(members)),
            size(sum(s.decision.nbytes for s in members)),
            ", ".join(s.decision.name for s in members[:_EXAMPLES]),
        ]
        for reason, members in order
    ]


def choices(report: ReportData) -> list[list[str]]:
    """Choices of a search for formats, with the columns of ``CHOICES``: best ones by size, then those that were run."""
    if report.search is None:
        return []
    search = report.search
    return [
        [
            f"{c.bits_per_weight:.2f}",
            "" if c.predicted_sqnr_db is None else decibels(c.predicted_sqnr_db),
            _measured(c) + (", chosen" if c == search.chosen else ""),
        ]
        for c in (*search.front, *search.tried, *([] if search.chosen in search.tried else [search.chosen]))
    ]


def _measured(choice: ChoiceFigures) -> str:
    """The measured quality of a choice of formats; empty where it was not run."""
    return "" if choice.measured is None or choice.measured.sqnr_db is None else decibels(choice.measured.sqnr_db)


def facts(report: ReportData) -> list[tuple[str, str]]:
    """Files, command, hashes, options and environment."""
    rows = [("source", report.source), ("output", str(report.output))]
    if report.command:
        rows.append(("command", report.command))
    for side, hashes in (("original", report.hashes.original), ("output", report.hashes.output)):
        rows += [(f"SHA-256 of {side} {name}", digest) for name, digest in (hashes or {}).items()]
    options: dict[str, JsonValue] = report.request.options if report.request else {}
    rows += [(f"option {k}", str(v)) for k, v in options.items()]
    return rows + [(k.replace("_", " "), v) for k, v in report.environment.items()]


def tuning(report: ReportData) -> str:
    """The result of tuning in two sentences; empty where nothing was learned."""
    record = report.tuning
    if record is None:
        return ""
    learned = f"{record.steps} steps in {record.seconds:.0f} s on {record.samples} samples."
    change = f"{record.before:.1f} to {record.after:.1f} dB on the {record.judged} samples that judge"
    return f"{learned} {change}{'' if record.gained else ': nothing gained, the file is as without it'}."


def pruning(report: ReportData) -> str:
    """The result of pruning, and what it gains, in sentences; empty where nothing was pruned."""
    record = report.pruning
    if record is None:
        return ""
    parts = []
    if record.weights:
        share, of_all = (100 * record.zeros / max(n, 1) for n in (record.elements, record.total))
        parts.append(
            f"{share:.1f} % of the elements of {record.weights} weights are zero by {record.score}, {of_all:.1f} % of all"
        )
    if record.before and record.after:
        numbers = [("parameters", record.before.parameters, record.after.parameters)]
        if record.before.macs and record.after.macs:
            numbers.append(("multiplications", record.before.macs, record.after.macs))
        left = ", ".join(f"{after / before:.0%} of {before / 1e6:.3g} million {what}" for what, before, after in numbers)
        parts.append(f"{record.channels} channels left the graph by {record.score}; {left} stay")
    if record.compressed is not None:
        before, after = size(record.compressed.original), size(record.compressed.output)
        parts.append(f"compressed, as by zip, about {after} (the original {before})")
    if record.weights:
        parts.append("the zeros change no speed on onnxruntime, which has no sparse kernels")
    others = ", ".join(f"{left.count} {left.reason}" for left in record.left)
    return "; ".join([*parts, *([f"not as asked for: {others}"] if others else [])])


def activations(report: ReportData) -> list[tuple[str, str]]:
    """Facts about integer activations: type, ranges and counts of kernels; empty where activations are floats."""
    record, proof = report.activations, report.proof
    if record is None:
        return []
    symmetric = ", symmetric" if record.symmetric else ""
    rows = [("activations", f"{record.kind} {record.code_type}{symmetric}")]
    if isinstance(record, StaticRecord):
        rows += _ranges(record)
    rows.append(("kernels on integers", str(record.integer_kernels)))
    if isinstance(record, StaticRecord):
        reasons = Counter(record.left_in_float.values())
        rows += [("kernels in float", f"{count}: {reason}") for reason, count in reasons.most_common()]
    return rows + (_leftovers(proof) if proof else [])


def _ranges(record: StaticRecord) -> list[tuple[str, str]]:
    """The choice of ranges and codes."""
    rows = []
    if use := record.samples:
        judges = f"{use.judged} others to judge by" if use.apart else f"{use.judged} of them to judge by"
        if use.folds:
            judges = f"{use.judged} of them to judge by, in {use.folds} parts, each by what the others make"
        rows.append(("samples", f"{use.calibrated}, {judges}"))
    if record.method:
        tried = _scores(record.tried.items())
        rows.append(("ranges", f"{record.method}{f' (tried: {tried})' if tried else ''}"))
    if record.variants:
        rows.append(("functions tried", _scores(record.variants.items())))
    if record.skipped:
        rows.append(("no time to try", f"{', '.join(record.skipped)} (--effort high tries all)"))
    if record.solver:
        nearest = len(record.not_solved or ())
        rows.append(("codes of weights", f"{record.solver}{f', {nearest} rounded to nearest' if nearest else ''}"))
    return rows


def _scores(scores: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {score:.1f} dB" for name, score in scores)


def _leftovers(proof: Proof) -> list[tuple[str, str]]:
    """Conversions that stay, and kernels that saturate."""
    reasons = Counter((c.op, c.reason) for c in proof.activations.conversions or ())
    rows = [(f"{op} that stay", f"{count}: {reason}") for (op, reason), count in reasons.most_common()]
    if losses := proof.activations.saturation:
        saturating = [loss.sqnr_db for loss in losses.values() if loss.saturating]
        lowest = f", the worst keeps {min(saturating):.1f} dB" if saturating else ""
        rows.append(("saturating without VNNI", f"{len(saturating)} of {len(losses)} kernels{lowest}"))
    return rows


def activation_details(activations: ActivationRecord | None, proof: Proof | None) -> list[tuple[str, str]]:
    """Names of nodes and weights with remarks: kernels in float, weights rounded to nearest, conversions that stay."""
    rows: list[tuple[str, str]] = []
    if isinstance(activations, StaticRecord):
        rows += [(name, f"in float: {reason}") for name, reason in activations.left_in_float.items()]
        nearest = "rounded to nearest: too many columns for gptq, or readers that differ"
        rows += [(name, nearest) for name in activations.not_solved or ()]
    if proof:
        rows += [(c.node, f"{c.op}: {c.reason}") for c in proof.activations.conversions or ()]
        for name, loss in (proof.activations.saturation or {}).items():
            if loss.saturating:
                share = 100 * loss.saturating / loss.pairs
                rows.append((name, _SATURATING.format(share=share, db=loss.sqnr_db)))
    return rows
