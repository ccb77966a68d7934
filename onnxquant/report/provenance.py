"""What a report says beside what was done: what was asked for, of which files; and where reports go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxquant.errors import OutputError
from onnxquant.graph.io import Document
from onnxquant.graph.publish import refuse_overwriting
from onnxquant.recipe.options import REPORTS, Options
from onnxquant.recipe.rules import Recipe
from onnxquant.report import write as files
from onnxquant.report.data import Report, files_of, given, hashes


@dataclass(frozen=True)
class Evidence:
    """What a report says beside what was done, and where reports go; ``output`` is None while it has no name yet."""

    settings: Options
    original: Document
    output: Path | None
    rules: Recipe
    options: Mapping[str, Any]
    command: str | None

    @property
    def place(self) -> Path:
        """Where the output goes."""
        assert self.output is not None
        return self.output

    def check(self) -> None:
        """Refuse reports and a recipe that could not be written, before any work."""
        reports = [r for r in self.settings.report if self.output is not None or r not in REPORTS]
        output = self.output or Path("not.named.yet")
        places = files.places(reports, output, force=self.settings.force)
        if self.settings.save_recipe is not None:
            recipe = Path(self.settings.save_recipe)
            files.refuse_unusable(recipe, output, force=self.settings.force, what="recipe")
            if recipe.resolve() in [path.resolve() for path in places]:
                raise OutputError(f"{recipe}: is a report, too; give the recipe another name")
            places.append(recipe)
        for path in places:
            refuse_overwriting(self.original, path)

    def finish(self, report: Report) -> Report:
        """Say what was asked for, of which files, and write the reports."""
        report.asked = {"recipe": self.rules.to_list(), "options": given(self.options)}
        report.command = self.command
        if self.settings.report or not report.planned:
            report.sha256 = {"original": hashes(files_of(self.original))}
        if not report.planned:
            data = [self.place.with_name(f"{self.place.name}.data")] if report.external_data else []
            report.sha256["output"] = hashes([self.place, *data])
        files.write(report, files.places(self.settings.report, self.place, force=True))
        return report
