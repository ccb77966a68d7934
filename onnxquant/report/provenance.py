"""The origin of a report: options, command line and hashes, and the places that reports go to."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from onnxquant.errors import ModelError, OutputError
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import refuse_overwriting
from onnxquant.json_data import JsonObject, to_json
from onnxquant.recipe.options import Options, options_to_report
from onnxquant.recipe.rules import Recipe
from onnxquant.report import write as files
from onnxquant.report.data import FileHashes, Request
from onnxquant.report.report import Report

_PLAIN = (str, int, float, bool, list, tuple, dict)


@dataclass(frozen=True)
class Provenance:
    """The origin of a report, and the places of its files.

    Attributes:
        settings: options of the run.
        original: the original model.
        output: the quantized file; None while it has no name.
        request: the request of the user.
        command: the command line; None where there was none.
    """

    settings: Options
    original: Document
    output: Path | None
    request: Request
    command: str | None

    @property
    def place(self) -> Path:
        """The quantized file.

        Raises:
            OutputError: it has no name.
        """
        if self.output is None:
            raise OutputError("the output has no name yet")
        return self.output

    def with_result(self, output: Path, rules: Recipe) -> Provenance:
        """The same origin with the rules that a search found, and the output that is named after them."""
        return replace(self, output=output, request=replace(self.request, recipe=rules.to_list()))

    def check(self, *others: Document) -> None:
        """Refuse names of data files, and reports and a recipe that could not be written, before any work.

        Args:
            others: models beside the original that must not be overwritten.

        Raises:
            RecipeError: an unknown ending, or a name that no data file of the output can have.
            OutputError: a file cannot be written, or is one of the models.
        """
        if self.output is not None and self.output.name:
            self.settings.data_names(self.original, self.output)
        places = files.places(self.settings.report, self.output, force=self.settings.force)
        if self.settings.save_recipe is not None:
            recipe = Path(self.settings.save_recipe)
            files.refuse_unusable(recipe, self.output, force=self.settings.force, what="recipe")
            if recipe.resolve() in [path.resolve() for path in places]:
                raise OutputError(f"{recipe}: is a report, too; give the recipe another name")
            places.append(recipe)
        for path in places:
            for document in (self.original, *others):
                refuse_overwriting(document, path)

    def files(self) -> list[list[Path]]:
        """Files that the run may write; a model and its data belong together."""
        groups = []
        if self.output is not None and self.output.name:
            data = self.settings.data_names(self.original, self.output)
            groups.append([self.output, self.output.with_name(data.first)])
        if self.settings.save_recipe is not None:
            groups.append([Path(self.settings.save_recipe)])
        return groups + [[path] for path in files.places(self.settings.report, self.output, force=True)]

    def data_written(self) -> list[Path]:
        """Data files of the output; none where it cannot be read."""
        with contextlib.suppress(ModelError):
            return load(self.place).data_files()
        return []

    def finish(self, report: Report, output: Document | None = None) -> Report:
        """Add the origin to a report, and write the report's files.

        Args:
            report: the report.
            output: the quantized file; None: it is the one that was just written.
        """
        report.request, report.command = self.request, self.command
        originals = files_of(self.original) if self.settings.report or not report.planned else None
        outputs = None
        if output is not None:
            outputs = files_of(output)
        elif not report.planned:
            outputs = files_of(load(self.place))
        report.hashes = FileHashes(*(None if paths is None else hashes(paths) for paths in (originals, outputs)))
        files.write(report, files.places(self.settings.report, self.place, force=True))
        return report


def plain_options(options: Mapping[str, object]) -> JsonObject:
    """Options as JSON data: those that differ from the defaults, functions by their name."""
    reported = options_to_report(options).items()
    return {k: to_json(v) if isinstance(v, _PLAIN) else getattr(v, "__name__", type(v).__name__) for k, v in reported}


def files_of(document: Document) -> list[Path]:
    """A model's file and its data files; none of a model that is an object."""
    return [document.path, *document.data_files()] if document.path else []


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of files, by name."""
    out = {}
    for path in paths:
        with path.open("rb") as file:
            out[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return out
