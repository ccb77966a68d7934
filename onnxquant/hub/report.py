"""Results of a folder: a row for each file, as data and as a table for the model card."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnxquant.batch.job import Row
from onnxquant.hub.folder import FloatModel
from onnxquant.hub.names import Names
from onnxquant.hub.variants import Variant
from onnxquant.json_data import OPTIONAL, JsonObject, to_object
from onnxquant.report.report import Report
from onnxquant.report.state import State
from onnxquant.report.units import size

# Verdicts by the signal-to-noise ratio of single parts; here the cosine decides.
_INACCURATE = (State.SMALLER_INACCURATE, State.FASTER_INACCURATE)
# The first line of a table of ours, by which a later run knows that it may replace it.
MARK = "<!-- written by onnxquant hub -->"


@dataclass(frozen=True)
class VariantRow:
    """Result of one variant of one model.

    Attributes:
        file: name of its file.
        dtype: name by which a client asks for it.
        model: name of the float model.
        state: verdict on the file; FAILED where it is not close enough.
        reason: why there is no file, or a remark.
        way: words on the way in which the file was made, where the usual one was not close enough; else empty.
        original_bytes, output_bytes: sizes, data files included.
        cosine: lowest cosine of an output to the float model's; None: not compared.
        least_cosine: the lowest that was allowed.
        speed_ratio: speed as a multiple of the float model's, on this machine.
        seconds: duration.
        report: the whole report, as data.
    """

    file: str
    dtype: str
    model: str
    state: State
    reason: str = ""
    way: str = ""
    original_bytes: int | None = None
    output_bytes: int | None = None
    cosine: float | None = None
    least_cosine: float = 0.0
    speed_ratio: float | None = None
    seconds: float | None = None
    report: JsonObject | None = field(default=None, repr=False, compare=False, metadata=OPTIONAL)

    @classmethod
    def of(cls, row: Row, model: FloatModel, variant: Variant, names: Names) -> VariantRow:
        """The result of a job; a file that is not close enough, or whose proof failed, is FAILED.

        Args:
            row: result of the job.
            model: the float model.
            variant: the variant.
            names: names that files have for readers of the folder.
        """
        state, reason, cosine = row.verdict, names.text(" ".join(row.reason.split())), _lowest_cosine(row.report)
        end = "it stays as it was" if row.reused else "not kept"
        if row.report is not None and row.report.problems:
            state, reason = State.FAILED, f"{reason}: {end}"
        elif cosine is not None and not cosine >= variant.least_cosine:
            state, reason = State.FAILED, f"cosine {cosine:.4f} is below {variant.least_cosine}: {end}"
        elif cosine is not None and state in _INACCURATE:
            state, reason = State.CAUTION, ""
        report = None if row.report is None else names.table(row.report.to_dict())
        return cls(
            variant.file_name(model.name), variant.dtype, model.name, state, reason, "", model.nbytes, row.output_bytes,
            cosine, variant.least_cosine, row.speed_ratio, row.seconds, report,
        )  # fmt: skip

    @property
    def is_there(self) -> bool:
        """Whether the file is there, and good enough."""
        return not self.state.is_failure and self.state is not State.PLANNED

    @property
    def figures(self) -> tuple[str, str, str, str]:
        """Size, how many times smaller, cosine and speed, as texts."""
        if self.state.is_failure:
            return "", "", "" if self.cosine is None else f"{self.cosine:.4f}", ""
        before, after = self.original_bytes, self.output_bytes
        return (
            "" if after is None else size(after),
            f"{before / after:.2f}x" if before and after else "",
            "" if self.cosine is None else f"{self.cosine:.4f}",
            "" if self.speed_ratio is None else f"{self.speed_ratio:.2f}x",
        )


def _lowest_cosine(report: Report | None) -> float | None:
    if report is None or report.proof is None:
        return None
    return min((errors.cosine for errors in report.proof.deployed.values()), default=None)


@dataclass(frozen=True)
class HubReport:
    """Results of a folder.

    Attributes:
        folder: the folder.
        models: the float models.
        rows: one row for each variant of each model.
        config: entries that config.json has got, by the names of the objects around them and their own, joined by dots.
        notes: sentences on what was left as it was, or was changed.
        files: other files that were written.
    """

    folder: Path
    models: tuple[FloatModel, ...]
    rows: tuple[VariantRow, ...]
    config: JsonObject
    notes: tuple[str, ...]
    files: tuple[Path, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every variant is there, or planned."""
        return not any(row.state.is_failure for row in self.rows)

    def to_dict(self) -> JsonObject:
        """JSON data, which people publish with the folder: files have their names in it."""
        return {
            "hub": self.folder.resolve().name,
            "passed": self.passed,
            "models": [{"file": model.path.name, "bytes": model.nbytes} for model in self.models],
            "variants": [to_object(row) for row in self.rows],
            "config": self.config,
            "notes": list(self.notes),
            "files": [path.relative_to(self.folder).as_posix() for path in self.files],
        }

    def card(self) -> str:
        """The table for the model card, in Markdown."""
        lines = [MARK, "| file | dtype | size | smaller | cosine to float | speed |", "|---|---|---:|---:|---:|---:|"]
        for model in self.models:
            lines.append(_line(model.path.name, "fp32", size(model.nbytes), "1.00x", "1", "1.00x"))
            rows = [row for row in self.rows if row.model == model.name and row.is_there]
            lines += [_line(row.file, row.dtype, *row.figures) for row in rows]
        others = [f"{row.dtype} of {row.model} ({row.way})" for row in self.rows if row.way and row.is_there]
        missing = [f"{row.dtype} of {row.model} ({row.reason})" for row in self.rows if row.state.is_failure]
        ends = {"Made otherwise than usual": others, "Not made": missing}
        sentences = [f"{words}: {'; '.join(entries)}." for words, entries in ends.items() if entries]
        return "\n".join([*lines, "", self._remark(), *sentences, ""])

    def _remark(self) -> str:
        """A sentence on the figures."""
        environments = [row.report.get("environment") for row in self.rows if row.report]
        words = next((e for e in environments if isinstance(e, dict)), {})
        names = ("onnxruntime", "machine", "instruction_sets")
        place = " {} on {} ({})".format(*map(words.get, names)) if words.keys() >= set(names) else ""
        return f"Cosine: the lowest of all outputs. Speed: as a multiple of the float file's, in onnxruntime{place}."


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
