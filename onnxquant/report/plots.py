"""Plots as SVG for a page: text stays text, and colours are the page's own, so that light and dark both work."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onnxquant.report import rows

Data = Mapping[str, Any]
# matplotlib knows no CSS: it draws in these, which become the page's colours.
_COLORS = {
    "#010203": "currentColor", "#010204": "var(--line)", "#010205": "var(--one)", "#010206": "var(--two)",
    "#010207": "var(--three)", "#010208": "var(--muted)",
}  # fmt: skip
_TEXT, _LINE, _ONE, _TWO, _THREE, _MUTED = _COLORS
# Bars of a ranking.
_RANKED = 25
_PAIRS = {"float vs twin": _ONE, "float vs exact": _TWO, "float vs deployed": _THREE}


def plots(data: Data) -> dict[str, str]:
    """SVG by name of the plot; only those that the report has figures for."""
    drawn = {
        "depth": _depth(rows.sites(data)),
        "outputs": _outputs(data["proof"]["outputs"] if data["proof"] else {}),
        "damage": _damage(data["proof"]["damage"] if data["proof"] else []),
        "ranges": _ranges(data["activations"].get("tensors", {}), data["observed"]),
        "sensitivity": _sensitivity(data["search"].get("sensitivity", [])),
        "front": _front(data["search"]),
    }
    return {name: _svg(name, *draw) for name, draw in drawn.items() if draw is not None}


Drawing = tuple[float, float, Callable[[Axes], None]]


def _svg(name: str, width: float, height: float, draw: Callable[[Axes], None]) -> str:
    """One plot.

    Args:
        name: makes the ids in it differ from those of other plots on the page.
        width: in inches.
        height: in inches.
        draw: draws on the axes.
    """
    style: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9, "text.color": _TEXT, "axes.edgecolor": _LINE,
        "axes.labelcolor": _MUTED, "xtick.color": _LINE, "ytick.color": _LINE, "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _TEXT, "grid.color": _LINE, "axes.spines.top": False, "axes.spines.right": False,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "axes.formatter.use_mathtext": False,
        "legend.frameon": False, "legend.labelcolor": _TEXT, "text.parse_math": False, "axes.unicode_minus": True,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
        draw(axes)
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


def _depth(sites: Sequence[Data]) -> Drawing | None:
    shown = [(i, float(s["sqnr_db"])) for i, s in enumerate(sites) if s.get("sqnr_db") is not None]
    shown = [(i, db) for i, db in shown if math.isfinite(db)]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        formats = list(dict.fromkeys(str(sites[i]["format"]) for i, _ in shown))
        colors = (_ONE, _TWO, _THREE, _MUTED)
        axes.vlines(
            [i for i, _ in shown], min(0.0, *(db for _, db in shown)), [db for _, db in shown], _LINE, linewidth=0.8
        )
        for k, form in enumerate(formats):
            at = [(i, db) for i, db in shown if str(sites[i]["format"]) == form]
            label = form if len(formats) <= len(colors) or k < len(colors) - 1 else "other formats" if k == 3 else None
            size = 22 if len(shown) < 100 else 10
            axes.scatter(
                [i for i, _ in at], [db for _, db in at], s=size, color=colors[min(k, 3)], label=label, zorder=3
            )
        axes.set_xlabel("weight, in the order of the graph")
        axes.set_ylabel("SQNR in dB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handletextpad=0.2, borderaxespad=0)

    return 8.4, 2.9, draw


def _outputs(pairs: Data) -> Drawing | None:
    names = list(dict.fromkeys(name for pair in _PAIRS for name in pairs.get(pair, {})))[:_RANKED]
    kinds = [pair for pair in _PAIRS if pair in pairs]
    finite = [float(d["sqnr_db"]) for p in kinds for d in pairs[p].values() if math.isfinite(float(d["sqnr_db"]))]
    if not names or not kinds:
        return None
    top = max([*finite, 10.0]) * 1.12

    def draw(axes: Axes) -> None:
        step = 0.8 / len(kinds)
        for k, pair in enumerate(kinds):
            values = [float(pairs[pair].get(n, {}).get("sqnr_db", "nan")) for n in names]
            places = [i + (k - (len(kinds) - 1) / 2) * step for i in range(len(names))]
            shown = [top if v == math.inf else 0.0 if not math.isfinite(v) else v for v in values]
            bars = axes.barh(places, shown, step * 0.86, color=_PAIRS[pair], label=pair)
            labels = ["exact" if v == math.inf else "none" if v == -math.inf else f"{v:.1f}" for v in values]
            axes.bar_label(bars, labels, padding=3, fontsize=8, color=_TEXT)
        axes.set_yticks(range(len(names)), [_short(n) for n in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(min([0.0, *finite]), top * 1.1)
        axes.set_xlabel("SQNR in dB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    return 8.4, 0.9 + len(names) * (0.24 * len(kinds) + 0.1), draw


def _damage(found: Sequence[Data]) -> Drawing | None:
    ranked = [(d["name"], 100 * float(d["share"]), _TWO if d["kind"] == "activation" else _ONE) for d in found]
    return _bars(ranked, "part of the output's error that goes with it, in percent") if ranked else None


def _sensitivity(found: Sequence[Data]) -> Drawing | None:
    ranked = []
    for site in found:
        noise = next((float(c["noise"]) for c in site["candidates"] if c["format"] == site["chosen"]), 0.0)
        if 0 < noise < math.inf:  # what stays in float makes none
            ranked.append((f"{site['name']}  {site['chosen']}", noise, _ONE))
    ranked.sort(key=lambda r: -r[1])
    label = "noise of the chosen format: error power over the outputs' power"
    return _bars(ranked, label, logarithmic=True) if ranked else None


def _bars(ranked: Sequence[tuple[str, float, str]], label: str, *, logarithmic: bool = False) -> Drawing:
    top = ranked[:_RANKED]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(top)), [value for _, value, _ in top], 0.7, color=[color for _, _, color in top])
        axes.set_yticks(range(len(top)), [_short(name) for name, _, _ in top])
        axes.set_ylim(len(top) - 0.5, -0.5)
        if logarithmic:
            axes.set_xscale("log", base=10)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        axes.set_xlabel(label)

    return 8.4, 0.8 + 0.21 * len(top), draw


def _ranges(tensors: Data, observed: Data) -> Drawing | None:
    names = [n for n in tensors if n in observed]
    if not names:
        return None
    # The ones that lose most first: what lies outside the range is cut off.
    names = sorted(names, key=lambda n: -_cut(tensors[n], observed[n]))[:_RANKED]

    def draw(axes: Axes) -> None:
        for i, name in enumerate(names):
            seen, made = observed[name], tensors[name]
            unit = max(abs(seen["low"]), abs(seen["high"])) or 1.0
            label = "seen" if i == 0 else None
            axes.barh(i, (seen["high"] - seen["low"]) / unit, 0.62, seen["low"] / unit, color=_LINE, label=label)
            label = "range of the codes" if i == 0 else None
            axes.barh(i, (made["high"] - made["low"]) / unit, 0.26, made["low"] / unit, color=_ONE, label=label)
        axes.set_yticks(range(len(names)), [_short(n) for n in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("values, largest magnitude seen = 1; the most cut off first")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    return 8.4, 0.95 + 0.21 * len(names), draw


def _cut(made: Data, seen: Data) -> float:
    unit = max(abs(seen["low"]), abs(seen["high"])) or 1.0
    return float(max(0.0, made["low"] - seen["low"]) + max(0.0, seen["high"] - made["high"])) / unit


def _front(search: Data) -> Drawing | None:
    front = [c for c in search.get("front", ()) if c["predicted_sqnr_db"] is not None]
    if not front:
        return None
    measured = [c for c in search["tried"] if c.get("measured_sqnr_db") is not None]
    chosen = search["chosen"]

    def draw(axes: Axes) -> None:
        axes.plot(
            [c["bits_per_weight"] for c in front], [c["predicted_sqnr_db"] for c in front], "o-", color=_ONE, markersize=4,
            linewidth=1.2, label="best choices, predicted",
        )  # fmt: skip
        axes.scatter(
            [c["bits_per_weight"] for c in measured], [c["measured_sqnr_db"] for c in measured], s=22, color=_MUTED,
            label="tried, measured", zorder=3,
        )  # fmt: skip
        if chosen.get("measured_sqnr_db") is not None:
            axes.scatter(
                [chosen["bits_per_weight"]], [chosen["measured_sqnr_db"]], s=80, marker="*", color=_THREE, label="chosen",
                zorder=4,
            )  # fmt: skip
        axes.set_xlabel("bits per weight")
        axes.set_ylabel("SQNR of the outputs in dB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    return 8.4, 3.2, draw


def _short(name: str) -> str:
    """The end of a long name, which is what tells it from others."""
    return name if len(name) <= 40 else f"…{name[-39:]}"
