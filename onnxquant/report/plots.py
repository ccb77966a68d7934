"""Plots as SVG for a page: text stays text, and colours are the page's own, so that light and dark both work."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onnxquant.budget.result import ChoiceFigures, FormatSearchResult, WeightCosts
from onnxquant.observers.histogram import HistogramSummary
from onnxquant.plan.activations import StaticRecord, TensorCodes
from onnxquant.plan.tuning import TuningRecord
from onnxquant.report import rows
from onnxquant.report.data import Attempt, Choice, ReportData
from onnxquant.validation.contributions import SiteContribution
from onnxquant.validation.outputs import Run, pair_name
from onnxquant.validation.proof import Proof

# matplotlib knows no CSS: it draws in these, which become the page's colours.
_COLORS = {
    "#010203": "currentColor", "#010204": "var(--line)", "#010205": "var(--one)", "#010206": "var(--two)",
    "#010207": "var(--three)", "#010208": "var(--muted)",
}  # fmt: skip
_TEXT, _LINE, _ONE, _TWO, _THREE, _MUTED = _COLORS
# Number of bars of a ranking.
_RANKED = 25
# Width of a plot in inches on a wide screen, and on a narrow one, with the characters of its longest name.
_FORMS = {"wide": (10.5, 40), "narrow": (4.4, 18)}
# Ratios of the outputs above which a way is good, and above which it is doubtful.
_GOOD_DB, _DOUBTFUL_DB = 30.0, 20.0
# One way alone is no plot.
_FEWEST_WAYS = 2
# Labels of points, in typographic points: their height above a point, and that of a line; the height that the points take;
# and the part of the width within which two labels may meet.
_LABEL_RISE, _LINE_HEIGHT, _LABELLED_HEIGHT, _LABEL_REACH = 4.0, 10.0, 110.0, 0.5
_PAIRS = {(Run.FLOAT, Run.TWIN): _ONE, (Run.FLOAT, Run.EXACT): _TWO, (Run.FLOAT, Run.DEPLOYED): _THREE}


@dataclass(frozen=True)
class Drawing:
    """A plot to draw.

    Attributes:
        height: height in inches.
        draw: function that draws on the axes.
    """

    height: float
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class _Bar:
    """A bar of a ranking."""

    name: str
    value: float
    color: str


def plots(report: ReportData) -> dict[str, dict[str, str]]:
    """SVG by name of the plot and by form, for wide and narrow screens; only plots that the report has figures for."""
    drawings = {
        "ways": _ways(report.choice) if report.choice else None,
        "depth": _depth(rows.sites(report)),
        "outputs": _outputs(report.proof) if report.proof else None,
        "contributions": _contributions(report.proof.contributions if report.proof else ()),
        "ranges": _ranges(report),
        "sensitivity": _sensitivity(report.search.sensitivity if report.search else ()),
        "front": _front(report.search) if report.search else None,
        "tuning": _tuning(report.tuning) if report.tuning else None,
    }
    return {
        name: {form: _svg(f"{name}-{form}", drawing, *_FORMS[form]) for form in _FORMS}
        for name, drawing in drawings.items()
        if drawing is not None
    }


def _style(name: str) -> dict[Any, Any]:
    """Settings of matplotlib, whose stubs know every key, for the plot of a name."""
    return {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "text.color": _TEXT, "axes.edgecolor": _LINE,
        "axes.labelcolor": _MUTED, "xtick.color": _LINE, "ytick.color": _LINE, "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _TEXT, "grid.color": _LINE, "axes.spines.top": False, "axes.spines.right": False,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "axes.formatter.use_mathtext": False,
        "legend.frameon": False, "legend.labelcolor": _TEXT, "text.parse_math": False, "axes.unicode_minus": True,
    }  # fmt: skip


def _svg(name: str, drawing: Drawing, width: float, longest: int) -> str:
    """One plot.

    Args:
        name: its name, which makes the ids in it differ from those of other plots on the page.
        drawing: the drawing.
        width: width in inches.
        longest: number of characters of the longest name.
    """
    with mpl.rc_context(_style(name)):
        figure = Figure(figsize=(width, drawing.height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        drawing.draw(axes)
        _shorten(axes, longest)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode()
    text = text[text.index("<svg") :]
    for drawn, shown in _COLORS.items():
        text = text.replace(drawn, shown)
    # The page's own typeface and width; names are data and stay as they are escaped.
    text = re.sub(r"font: (?:\d+ )?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*" ', r'<svg \1role="img" ', re.sub(r' height="[\d.]+pt"', "", text, count=1), count=1
    )


def _shorten(axes: Axes, longest: int) -> None:
    """Shorten the names at the left, and stack a legend that would be too wide."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    if any(len(name) > longest for name in names):
        axes.set_yticks(axes.get_yticks(), [_short(name, longest) for name in names])
    legend = axes.get_legend()
    if legend is not None and sum(len(text.get_text()) + 6 for text in legend.get_texts()) > 2.2 * longest:
        legend.set_ncols(2 if longest > _FORMS["narrow"][1] else 1)


def _ways(choice: Choice) -> Drawing | None:
    """Size against speed of the ways that were tried, the front, and a colour for the quality."""
    points = [(a, a.nbytes / 1e6, a.verdict.faster) for a in choice.attempts if a.verdict and a.nbytes and a.verdict.faster]
    if len(points) < _FEWEST_WAYS:
        return None
    offsets = label_offsets([(size, speed) for _, size, speed in points])
    front = sorted((size, speed) for a, size, speed in points if a.pareto)

    def draw(axes: Axes) -> None:
        if len(front) > 1:
            axes.step(*zip(*front, strict=True), where="post", color=_LINE, linewidth=1.2, label="front", zorder=1)
        qualities = {_ONE: f"{_GOOD_DB:.0f} dB or more", _TWO: f"{_DOUBTFUL_DB:.0f} dB or more", _MUTED: "less"}
        for color, label in qualities.items():
            some = [(size, speed) for a, size, speed in points if _color(a) == color]
            if some:
                sizes, speeds = zip(*some, strict=True)
                axes.scatter(sizes, speeds, s=36, color=color, label=label, zorder=3)
        for (attempt, size, speed), offset in zip(points, offsets, strict=True):
            is_chosen = attempt.way == choice.chosen
            axes.annotate(
                _short(attempt.way + is_chosen * " (chosen)", _FORMS["wide"][1]), (size, speed), (5, offset),
                textcoords="offset points", fontsize=8, fontweight="bold" if is_chosen else "normal",
            )  # fmt: skip
        axes.margins(x=0.22, y=0.2)
        axes.set_xlabel("size in MB")
        axes.set_ylabel("speed, original = 1")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)

    return Drawing(3.2, draw)


def label_offsets(points: Sequence[tuple[float, float]]) -> list[float]:
    """Heights of labels above their points, in typographic points, negative below them: no label lies on another.

    Args:
        points: places of the points; labels stand to the right of them.
    """
    sizes, speeds = ([point[axis] for point in points] for axis in range(2))
    scale = _LABELLED_HEIGHT / ((max(speeds) - min(speeds)) or 1.0)
    reach = _LABEL_REACH * ((max(sizes) - min(sizes)) or 1.0)
    offsets, placed = [_LABEL_RISE] * len(points), list[tuple[float, float]]()
    for i in sorted(range(len(points)), key=lambda i: -speeds[i]):
        height = speeds[i] * scale + _LABEL_RISE
        lowest = min((y for x, y in placed if abs(x - sizes[i]) < reach and y - _LINE_HEIGHT < height), default=None)
        if lowest is not None:
            height = lowest - _LINE_HEIGHT
        placed.append((sizes[i], height))
        offsets[i] = height - speeds[i] * scale
    return offsets


def _color(attempt: Attempt) -> str:
    """The colour for the quality of a way."""
    ratio = attempt.verdict.worst_sqnr_db if attempt.verdict else None
    return _MUTED if ratio is None or ratio < _DOUBTFUL_DB else _TWO if ratio < _GOOD_DB else _ONE


def _depth(sites: Sequence[rows.SiteRow]) -> Drawing | None:
    """SQNR of each weight in the order of the graph, a color for each format."""
    shown = [
        (i, s.sqnr_db, s.format) for i, s in enumerate(sites) if s.sqnr_db is not None and math.isfinite(s.sqnr_db)
    ]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        formats = list(dict.fromkeys(str(form) for _, _, form in shown))
        colors = (_ONE, _TWO, _THREE, _MUTED)
        lowest = min(0.0, *(db for _, db, _ in shown))
        axes.vlines([i for i, _, _ in shown], lowest, [db for _, db, _ in shown], _LINE, linewidth=0.8)
        for k, form in enumerate(formats):
            label = form if len(formats) <= len(colors) or k < len(colors) - 1 else "other formats" if k == 3 else None
            axes.scatter(
                [i for i, _, f in shown if str(f) == form], [db for _, db, f in shown if str(f) == form],
                s=22 if len(shown) < 100 else 10, color=colors[min(k, 3)], label=label, zorder=3,
            )  # fmt: skip
        axes.set_xlabel("weight, in the order of the graph")
        axes.set_ylabel("SQNR in dB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handletextpad=0.2, borderaxespad=0)

    return Drawing(2.9, draw)


def _outputs(proof: Proof) -> Drawing | None:
    """SQNR of each output, between each pair of runs that was compared."""
    pairs = {pair: errors for pair in _PAIRS if (errors := proof.errors(*pair))}
    names = list(dict.fromkeys(name for errors in pairs.values() for name in errors))[:_RANKED]
    if not names:
        return None
    finite = [e.sqnr_db for errors in pairs.values() for e in errors.values() if math.isfinite(e.sqnr_db)]
    top = max([*finite, 10.0]) * 1.12

    def draw(axes: Axes) -> None:
        step = 0.8 / len(pairs)
        for k, (pair, errors) in enumerate(pairs.items()):
            values = [errors[n].sqnr_db if n in errors else math.nan for n in names]
            places = [i + (k - (len(pairs) - 1) / 2) * step for i in range(len(names))]
            shown = [top if v == math.inf else 0.0 if not math.isfinite(v) else v for v in values]
            bars = axes.barh(places, shown, step * 0.86, color=_PAIRS[pair], label=pair_name(*pair))
            labels = ["exact" if v == math.inf else "none" if v == -math.inf else f"{v:.1f}" for v in values]
            axes.bar_label(bars, labels, padding=3, fontsize=8, color=_TEXT)
        axes.set_yticks(range(len(names)), [_short(n) for n in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(min([0.0, *finite]), top * 1.1)
        axes.set_xlabel("SQNR in dB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    return Drawing(0.9 + len(names) * (0.24 * len(pairs) + 0.1), draw)


def _contributions(sites: Sequence[SiteContribution]) -> Drawing | None:
    bars = [_Bar(c.name, 100 * c.share, _TWO if c.kind == "activation" else _ONE) for c in sites]
    return _ranking(bars, "share of the output's error that goes away without it, in percent") if bars else None


def _sensitivity(weights: Sequence[WeightCosts]) -> Drawing | None:
    bars = []
    for weight in weights:
        noise = next((c.noise for c in weight.candidates if c.format == weight.chosen), 0.0)
        if 0 < noise < math.inf:  # a weight that stays in float makes none
            bars.append(_Bar(f"{weight.name}  {weight.chosen}", noise, _ONE))
    bars.sort(key=lambda bar: -bar.value)
    label = "noise of the chosen format: error power over the outputs' power"
    return _ranking(bars, label, logarithmic=True) if bars else None


def _ranking(bars: Sequence[_Bar], label: str, *, logarithmic: bool = False) -> Drawing:
    """Horizontal bars of the highest-ranked entries."""
    top = bars[:_RANKED]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(top)), [bar.value for bar in top], 0.7, color=[bar.color for bar in top])
        axes.set_yticks(range(len(top)), [_short(bar.name) for bar in top])
        axes.set_ylim(len(top) - 0.5, -0.5)
        if logarithmic:
            axes.set_xscale("log", base=10)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        axes.set_xlabel(label)

    return Drawing(0.8 + 0.21 * len(top), draw)


def _ranges(report: ReportData) -> Drawing | None:
    """Values of activations beside the ranges of their codes."""
    tensors = report.activations.tensors if isinstance(report.activations, StaticRecord) else {}
    pairs = [(name, codes, report.observed[name]) for name, codes in tensors.items() if name in report.observed]
    if not pairs:
        return None
    # The ones that lose most first: values outside the range are cut off.
    pairs = sorted(pairs, key=lambda pair: -_cut(pair[1], pair[2]))[:_RANKED]

    def draw(axes: Axes) -> None:
        for i, (_, codes, values) in enumerate(pairs):
            unit = _unit(values)
            label = "seen" if i == 0 else None
            axes.barh(i, (values.high - values.low) / unit, 0.62, values.low / unit, color=_LINE, label=label)
            label = "range of the codes" if i == 0 else None
            axes.barh(i, (codes.high - codes.low) / unit, 0.26, codes.low / unit, color=_ONE, label=label)
        axes.set_yticks(range(len(pairs)), [_short(name) for name, _, _ in pairs])
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.set_xlabel("values, largest magnitude seen = 1; the most cut off first")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    return Drawing(0.95 + 0.21 * len(pairs), draw)


def _unit(values: HistogramSummary) -> float:
    """The largest magnitude; 1 where there is none."""
    return max(abs(values.low), abs(values.high)) or 1.0


def _cut(codes: TensorCodes, values: HistogramSummary) -> float:
    """Width of the values that lie outside the codes' range, over the largest magnitude."""
    return (max(0.0, codes.low - values.low) + max(0.0, values.high - codes.high)) / _unit(values)


def _front(search: FormatSearchResult) -> Drawing | None:
    """Bits per weight against SQNR: the Pareto front, and the choices that were measured."""
    front = [(c.bits_per_weight, c.predicted_sqnr_db) for c in search.front if c.predicted_sqnr_db is not None]
    if not front:
        return None
    measured, chosen = [p for c in search.tried for p in _point(c)], _point(search.chosen)

    def draw(axes: Axes) -> None:
        bits, decibels = zip(*front, strict=True)
        label = "best choices, predicted"
        axes.plot(bits, decibels, "o-", color=_ONE, markersize=4, linewidth=1.2, label=label)
        axes.scatter(
            [bits for bits, _ in measured], [db for _, db in measured], s=22, color=_MUTED, label="tried, measured",
            zorder=3,
        )  # fmt: skip
        for bits_chosen, db in chosen:
            axes.scatter([bits_chosen], [db], s=80, marker="*", color=_THREE, label="chosen", zorder=4)
        axes.set_xlabel("bits per weight")
        axes.set_ylabel("SQNR of the outputs in dB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    return Drawing(3.2, draw)


def _point(choice: ChoiceFigures) -> list[tuple[float, float]]:
    """Bits and measured decibels of a choice, where it has them."""
    measured = choice.measured.sqnr_db if choice.measured else None
    return [] if measured is None else [(choice.bits_per_weight, measured)]


def _tuning(record: TuningRecord) -> Drawing | None:
    """Losses by the step of tuning, of the samples that it learned from and of those that judged it."""
    if len(record.course) < 2:
        return None

    def draw(axes: Axes) -> None:
        learning = [(p.step, p.learning) for p in record.course if p.learning is not None]
        axes.plot(*zip(*learning, strict=True), "o-", color=_MUTED, markersize=3, linewidth=1, label="learned from")
        judged = [(p.step, p.held_out) for p in record.course]
        axes.plot(*zip(*judged, strict=True), "o-", color=_ONE, markersize=4, linewidth=1.2, label="held out")
        axes.set_yscale("log")
        axes.set_xlabel("steps")
        axes.set_ylabel("loss")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    return Drawing(3.2, draw)


def _short(name: str, longest: int = 40) -> str:
    """The end of a long name: names of tensors mostly begin alike."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
