"""Reports as files: which face, where, and written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxquant.errors import OutputError, RecipeError
from onnxquant.graph.publish import atomically
from onnxquant.recipe.options import REPORTS
from onnxquant.report.data import Report


def places(given: Sequence[str], output: Path, *, force: bool) -> list[Path]:
    """Where reports go.

    Args:
        given: names; a bare ending such as ``.html`` means beside the output.
        output: the model that the reports are of.
        force: existing reports may be replaced.

    Raises:
        RecipeError: an unknown ending.
        OutputError: a report cannot be written there, exists already, or would be one of the model's files.

    >>> places([".html"], Path("model.int8.onnx"), force=False)
    [PosixPath('model.int8.html')]
    """
    if given and not output.name:
        raise OutputError(f"{output}: is a folder; expected a file name")
    found: list[Path] = []
    for name in dict.fromkeys(map(str, given)):
        if not name.endswith(REPORTS):
            raise RecipeError(f"report is {name!r}, expected a name that ends in {', '.join(REPORTS)}")
        found.append(output.with_suffix(name) if name in REPORTS else Path(name))
    for path in found:
        refuse_unusable(path, output, force=force)
    return found


def refuse_unusable(path: Path, output: Path, *, force: bool, what: str = "report") -> None:
    """Refuse a file beside a model that cannot be written; see ``places``.

    Raises:
        OutputError: with what was expected.
    """
    if path.resolve() in (output.resolve(), output.with_name(f"{output.name}.data").resolve()):
        raise OutputError(f"{path}: is the model's own file; give the {what} another name")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; expected a file name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if (path.exists() or path.is_symlink()) and not force:
        raise OutputError(f"{path}: exists already; pass --force (force=True) to replace it")


def write(report: Report, paths: Iterable[Path]) -> None:
    """Write a report to files whose endings choose the face.

    Raises:
        OutputError: a file cannot be written.
    """
    for path in paths:
        _write(path, rendered(report, path.suffix))


def write_comparison(data: Mapping[str, Any], path: Path) -> None:
    """Write what ``comparison.compare`` gave to a file whose ending chooses the face.

    Raises:
        OutputError: the file cannot be written.
    """
    from onnxquant.report import html, markdown

    faces = {".html": html.render_comparison, ".md": markdown.render_comparison, ".json": _json}
    _write(path, faces[path.suffix](data))


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, allow_nan=False)


def _write(path: Path, text: str) -> None:
    with atomically(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))  # names of files need not be UTF-8


def rendered(report: Report, ending: str) -> str:
    """A report as HTML, Markdown or JSON."""
    from onnxquant.report import html, markdown  # templates and plots take long to import

    faces = {".html": html.render, ".md": markdown.render, ".json": Report.to_json}
    return faces[ending](report)
