"""The report that users get: its data, with a verdict, and in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from onnxquant.json_data import JsonObject, JsonValue
from onnxquant.report import serialize, write
from onnxquant.report import warnings as warnings_
from onnxquant.report.data import ReportData, Verdict
from onnxquant.report.verdict import verdict_of


class Report(ReportData):
    """The report of ``quantize`` and ``validate``."""

    @property
    def verdict(self) -> Verdict:
        """The result in figures, and a sentence that says what to do next."""
        return verdict_of(self)

    @property
    def passed(self) -> bool:
        """Whether the proof and every bound hold, where they were asked for, and the file is not worse in every way."""
        return not self.verdict.state.is_failure

    @property
    def warnings(self) -> list[str]:
        """Warnings about the result."""
        return warnings_.warnings(self)

    def to_dict(self) -> JsonObject:
        """The report as JSON data, of the schema that ``onnxquant report --schema`` prints."""
        return serialize.report_to_json(self)

    def to_json(self) -> str:
        """The report as JSON text."""
        return serialize.as_text(self.to_dict())

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the report to a file; its ending chooses .html, .md or .json.

        Raises:
            RecipeError: another ending.
            OutputError: the file exists and may not be replaced, or cannot be written.
        """
        write.write(self, write.places([str(path)], Path(self.output or "report"), force=force))

    @classmethod
    def from_dict(cls, data: JsonValue, name: str = "report") -> Self:
        """The report in JSON data.

        Args:
            data: data that ``to_dict`` returned.
            name: name of the report in errors.

        Raises:
            ReportError: another schema version, or data that does not fit the schema.
        """
        return serialize.report_from_json(cls, data, name)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The report that was saved as JSON.

        Raises:
            ReportError: the file is missing, no JSON, or no report of this version.
        """
        return serialize.load_report(cls, path)
