"""Reports as files: their form, their place, and writing them whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from onnxquant.errors import OutputError, RecipeError
from onnxquant.json_data import to_object
from onnxquant.recipe.values import REPORTS
from onnxquant.report import markdown
from onnxquant.report.comparison import Comparison
from onnxquant.report.data import ReportData
from onnxquant.report.serialize import as_text, report_to_json
from onnxquant.system.files import atomically, refuse_folder, refuse_taken


def places(names: Sequence[str], output: Path | None, *, force: bool) -> list[Path]:
    """Paths of reports.

    Args:
        names: names of files; a bare ending such as ``.html`` means beside the output.
        output: the model that the reports are about; None: it has no name yet, so bare endings are left out.
        force: whether existing reports may be replaced.

    Raises:
        RecipeError: an unknown ending.
        OutputError: a report cannot be written there, exists already, or would be one of the model's files.

    >>> places([".html"], Path("model.int8.onnx"), force=False)
    [PosixPath('model.int8.html')]
    """
    if names and output is not None:
        refuse_folder(output)
    for name in map(str, names):
        if not name.endswith(REPORTS):
            raise RecipeError(f"report is {name!r}, expected a name that ends in {', '.join(REPORTS)}")
    paths = paths_of(names, output)
    for path in paths:
        refuse_unusable(path, output, force=force)
    return paths


def paths_of(names: Sequence[str], output: Path | None) -> list[Path]:
    """Paths of reports; bare endings are left out where the output has no name yet."""
    paths: list[Path] = []
    for name in dict.fromkeys(map(str, names)):
        if name not in REPORTS:
            paths.append(Path(name))
        elif output is not None:
            paths.append(output.with_suffix(name))
    return paths


def refuse_unusable(path: Path, output: Path | None, *, force: bool, what: str = "report") -> None:
    """Refuse a file beside a model that cannot be written; see ``places``.

    Raises:
        OutputError: the file cannot be written there.
    """
    own = [] if output is None else [output, output.with_name(f"{output.name}.data")]
    if path.resolve() in [p.resolve() for p in own]:
        raise OutputError(f"{path}: is the model's own file; give the {what} another name")
    refuse_taken(path, force=force)


def write(report: ReportData, paths: Iterable[Path]) -> None:
    """Write a report to files whose endings choose the form.

    Raises:
        OutputError: a file cannot be written.
    """
    for path in paths:
        _write(path, rendered(report, path.suffix))


def write_comparison(data: Comparison, path: Path) -> None:
    """Write a comparison of reports to a file whose ending chooses the form.

    Raises:
        OutputError: the file cannot be written.
    """
    if path.suffix == ".html":
        from onnxquant.report import html  # see ``rendered``

        _write(path, html.render_comparison(data))
    else:
        _write(path, markdown.render_comparison(data) if path.suffix == ".md" else as_text(to_object(data)))


def rendered(report: ReportData, ending: str) -> str:
    """A report as HTML, Markdown or JSON."""
    if ending == ".html":
        from onnxquant.report import html  # its plots and templates take half as long to import as all the rest

        return html.render(report)
    return markdown.render(report) if ending == ".md" else as_text(report_to_json(report))


def _write(path: Path, text: str) -> None:
    with atomically(path) as stream:
        stream.write(text.encode(errors="backslashreplace"))  # names of files need not be UTF-8
