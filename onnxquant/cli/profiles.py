"""Profiles on a terminal: the time by operator, side by side, the slowest nodes, and what did not become integer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from onnxquant.cli.shared import console
from onnxquant.inspect.not_integer import FloatPart, FloatWork, NotInteger
from onnxquant.inspect.operator_times import ModelProfile, ProfiledNode
from onnxquant.report.table import say
from onnxquant.report.terminal import table

# Nodes that are shown without -v, parts that are not integer, and nodes that are named of each.
_NODES, _PARTS, _NAMED = 10, 4, 2
# The part of the time of every file below which operators are summed.
_LEAST = 0.01
# Shapes that are shown of each node.
_SHAPES = 2
# Multiple of a run without the profiler from which the sum of the operators is worth a warning.
_INFLATED = 1.2
# Digits behind the point of times, by the longest of them in milliseconds.
_DIGITS = ((100.0, 1), (10.0, 2), (0.0, 3))
# Beginning of the domains of onnxruntime's own operators, which takes room in every row.
_COMPANY = "com."
_SHAPE = re.compile(r".* \[(?P<sizes>.+)\]")


@dataclass(frozen=True)
class _Cell:
    """The figures of a row for one model; None: it has none."""

    seconds: float
    calls: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class _Line:
    """A row of the table of operators: a cell for each model."""

    title: str
    cells: tuple[_Cell | None, ...]

    @property
    def has_calls(self) -> bool:
        """Whether it counts calls."""
        return any(cell is not None and cell.calls is not None for cell in self.cells)


def show_profiles(profiles: Sequence[ModelProfile], names: Sequence[str], *, verbose: bool) -> None:
    """Print the profiles of one model, or of two side by side.

    Args:
        profiles: the profiles.
        names: names of the models.
        verbose: show every operator and node.
    """
    screen = console()
    _show_operators(screen, profiles, names, verbose=verbose)
    for profile, mark in zip(profiles, _marks(profiles), strict=True):
        if text := _inflation(profile):
            say(screen, text, label=f"{mark}profiler: ", style="yellow")
    for profile, mark, name in zip(profiles, _marks(profiles), names, strict=True):
        screen.print()
        _show_nodes(screen, profile, f"{mark}{name}", verbose=verbose)
    for profile, mark in zip(profiles, _marks(profiles), strict=True):
        if profile.not_integer:
            screen.print()
            _show_floats(screen, profile, profile.not_integer, mark, verbose=verbose)


def _marks(profiles: Sequence[ModelProfile]) -> list[str]:
    """Words before figures of each model: none for one, letters for several."""
    return [""] if len(profiles) == 1 else [f"{chr(ord('A') + place)} " for place in range(len(profiles))]


def _show_operators(screen: Console, profiles: Sequence[ModelProfile], names: Sequence[str], *, verbose: bool) -> None:
    """Print the operators of the models side by side, and what lies outside of them."""
    marks = _marks(profiles)
    part = f" of {profiles[0].part}" if profiles[0].part else ""
    files = ", ".join(f"{mark}{name}" for mark, name in zip(marks, names, strict=True))
    heads = [f"+>{mark}ms" if column else f">{mark}%" for mark in marks for column in (1, 0)]
    heads += ["+>B - A"] * (len(profiles) == 2)
    out = table(f"Time{part} by operator: {files}", "operator", "+>calls", *heads)
    digits = _digits(profiles)
    for line in _operator_lines(profiles, least=0.0 if verbose else _LEAST):
        out.add_row(line.title.removeprefix(_COMPANY), *_figures(line, digits))
    for line in _sums(profiles):
        out.add_row(line.title, *_figures(line, digits), style="bold")
    out.caption = _caption(profiles, marks)
    screen.print(out)


def _operator_lines(profiles: Sequence[ModelProfile], *, least: float) -> Iterator[_Line]:
    """The operators by the longer of their times, and the sum of those that take little in every model."""
    by_name = [{time.operator: _Cell(time.seconds, time.calls, time.share) for time in p.operators} for p in profiles]
    operators = {name for cells in by_name for name in cells}
    lines = [_Line(name, tuple(cells.get(name) for cells in by_name)) for name in operators]
    lines.sort(key=lambda line: (-max(cell.seconds for cell in line.cells if cell), line.title))
    small = [line for line in lines if all(not cell or (cell.share or 0.0) < least for cell in line.cells)]
    if len(small) < 2:
        small = []
    yield from (line for line in lines if line not in small)
    if small:
        yield _Line(
            f"{len(small)} others", tuple(_total(cells) for cells in zip(*(s.cells for s in small), strict=True))
        )


def _total(cells: Sequence[_Cell | None]) -> _Cell | None:
    some = [cell for cell in cells if cell]
    if not some:
        return None
    return _Cell(sum(c.seconds for c in some), sum(c.calls or 0 for c in some), sum(c.share or 0.0 for c in some))


def _sums(profiles: Sequence[ModelProfile]) -> Iterator[_Line]:
    """The sum of the operators, the rest of a run where there is one, and the run."""
    yield _Line(
        "all operators", tuple(_Cell(p.operator_seconds, sum(time.calls for time in p.operators)) for p in profiles)
    )
    if all(p.outside_seconds is not None for p in profiles):
        yield _Line("outside of operators", tuple(_Cell(p.outside_seconds or 0.0) for p in profiles))
    yield _Line("one run without the profiler", tuple(_Cell(p.seconds) for p in profiles))


def _figures(line: _Line, digits: int) -> Iterator[str]:
    """The cells of a row as texts."""
    yield "/".join(str(cell.calls) if cell else "-" for cell in line.cells) if line.has_calls else ""
    for cell in line.cells:
        yield "" if cell is None else f"{1e3 * cell.seconds:.{digits}f}"
        yield "" if cell is None or cell.share is None else f"{100 * cell.share:.1f}"
    if len(line.cells) == 2:
        first, second = (cell.seconds if cell else 0.0 for cell in line.cells)
        yield f"{1e3 * (second - first):+.{digits}f}"


def _digits(profiles: Sequence[ModelProfile]) -> int:
    longest = 1e3 * max(profile.seconds for profile in profiles)
    return next(digits for least, digits in _DIGITS if longest >= least)


def _caption(profiles: Sequence[ModelProfile], marks: Sequence[str]) -> str:
    """The conditions of the measurement."""
    threads = profiles[0].threads
    costs = ", ".join(
        f"{mark}{max(profile.profiled_seconds / profile.seconds - 1, 0.0):.0%}"
        for mark, profile in zip(marks, profiles, strict=True)
    )
    steady, runs = min(profile.steady_runs for profile in profiles), min(profile.runs for profile in profiles)
    counted = (
        f"medians of {runs} runs" if steady == runs else f"medians of {steady} of {runs} runs that nothing disturbed"
    )
    if any(profile.is_disturbed for profile in profiles):
        counted = f"lower quartiles of {runs} runs that other programs disturbed, so that they are uncertain"
    return (
        f"Milliseconds of a run: {counted}; {threads} thread{'s' * (threads > 1)}. "
        f"The profiler makes runs {costs} longer; some of its time is in each call."
    )


def _inflation(profile: ModelProfile) -> str:
    """The part of the times that is the profiler's, where it is large; empty where it is not."""
    excess = profile.operator_seconds - profile.seconds
    if profile.operator_seconds <= _INFLATED * profile.seconds:
        return ""
    calls = sum(time.calls for time in profile.operators)
    return (
        f"operators take {profile.operator_seconds / profile.seconds:.2f} times as long as a run without it, some "
        f"{1e6 * excess / calls:.1f} us too much in each of {calls} calls: operators of many small calls look longer "
        "than they are"
    )


def _show_nodes(screen: Console, profile: ModelProfile, title: str, *, verbose: bool) -> None:
    """Print the slowest nodes of a model; with -v all."""
    nodes = profile.nodes if verbose else profile.nodes[:_NODES]
    digits = _digits([profile])
    rows = [
        (
            _name(node),
            _kind(node.operator),
            f"{1e3 * node.seconds:.{digits}f}",
            f"{100 * node.share:.1f}",
            _shapes(node),
        )
        for node in nodes
    ]
    widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
    # Names of nodes are worth more than shapes: where both do not fit, these are left out.
    is_wide = sum(widths) + 2 * len(widths) <= screen.width
    out = table(f"Slowest nodes: {title}", "node", "+operator", "+>ms", "+>%", *["inputs"] * is_wide)
    for row in rows:
        out.add_row(*(row if is_wide else row[:-1]))
    if rest := len(profile.nodes) - len(nodes):
        out.caption = f"{rest} more with -v" + "; shapes of inputs on a wider terminal (COLUMNS=120)" * (not is_wide)
    screen.print(out)


def _name(node: ProfiledNode) -> str:
    """The name of a node in the file, without the operator that names of ours end in."""
    return (node.origin or node.name).removesuffix("/node").removesuffix(f"/{_kind(node.operator)}")


def _kind(operator: str) -> str:
    """An operator without its domain.

    >>> _kind("com.microsoft.nchwc.Conv")
    'Conv'
    """
    return operator.rpartition(".")[2]


def _shapes(node: ProfiledNode) -> str:
    """Shapes of the first inputs that are no single number."""
    shapes = [match["sizes"].replace(", ", "x") for text in node.inputs if (match := _SHAPE.fullmatch(text))]
    return " ".join([shape for shape in shapes if shape != "1"][:_SHAPES])


def _show_floats(screen: Console, profile: ModelProfile, floats: NotInteger, mark: str, *, verbose: bool) -> None:
    """Print the time that is not integer in a line, and what to do about it."""
    names = {node.name: _name(node) for node in profile.nodes}
    parts = floats.parts if verbose else floats.parts[:_PARTS]
    texts = [_part(part, names) for part in parts]
    if rest := floats.share - sum(part.share for part in parts):
        texts += [f"others {rest:.1%}"] * (rest > 5e-4)
    text = f"{floats.share:.0%} of the time of operators: {', '.join(texts)}"
    say(screen, text, label=f"{mark}not integer: ", style="yellow")
    if floats.reasons:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in floats.reasons.items())
        say(screen, f"kernels in float, as the file records: {reasons}", label="  ")
    for remedy in floats.remedies:
        say(screen, remedy, label="  ")


def _part(part: FloatPart, names: Mapping[str, str]) -> str:
    """The share of an operator, with the names of products, of others with their number."""
    count = len(part.nodes)
    if part.work is FloatWork.PRODUCT:
        first = ", ".join(names[name] for name in part.nodes[:_NAMED])
        where = first + f" and {count - _NAMED} more" * (count > _NAMED)
    else:
        where = "1 node" if count == 1 else f"{count} nodes"
    work = f" {part.work}" * (part.work in (FloatWork.DECODING, FloatWork.BETWEEN))
    return f"{_kind(part.operator)}{work} {part.share:.1%} ({where})"
