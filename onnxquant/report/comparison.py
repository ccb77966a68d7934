"""Several saved reports side by side: figures of each, and the weights on which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxquant.report.data import Report
from onnxquant.report.verdict import decibels, size

# Fields of a row, in the order in which faces show them.
COLUMNS = (
    "report", "state", "bytes", "ratio", "bits_per_weight", "worst_sqnr_db", "speed", "encoded", "weights",
)  # fmt: skip


def compare(reports: Mapping[str, Report]) -> dict[str, Any]:
    """A row per report, and per weight that is not of one format in all of them the formats and errors.

    Args:
        reports: by the name to call them.

    Returns:
        ``reports``: a row each, of ``COLUMNS``; ``sites``: ``name``, and by report the ``format`` (``float`` where it stays,
        None where there is no such weight), ``bytes`` and ``sqnr_db``.
    """
    plain = {name: r.to_dict() for name, r in reports.items()}
    rows = []
    for name, data in plain.items():
        verdict = data["verdict"]
        rows.append(
            {
                "report": name,
                "state": verdict["state"],
                "bytes": data["output_bytes"] or data["predicted_bytes"],
                "ratio": verdict["smaller"],
                "bits_per_weight": data["bits_per_weight"],
                "worst_sqnr_db": verdict["worst_sqnr_db"],
                "speed": verdict["faster"],
                "encoded": verdict["encoded"],
                "weights": verdict["weights"],
            }
        )
    sites = {name: _sites(data) for name, data in plain.items()}
    names = dict.fromkeys(site for found in sites.values() for site in found)
    differing = []
    for site in names:
        each = {name: found.get(site, _ABSENT) for name, found in sites.items()}
        if len({(s["format"], s["bytes"]) for s in each.values()}) > 1:
            differing.append({"name": site, "by_report": each})
    return {"reports": rows, "sites": differing}


_ABSENT: dict[str, Any] = {"format": None, "bytes": None, "sqnr_db": None}


def _sites(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Format, bytes and error by weight; of ``validate`` those that are encoded."""
    if data["sites"]:
        return {
            s["name"]: {
                "format": s["format"] or "float", "bytes": s["bytes"], "sqnr_db": s.get("error", {}).get("sqnr_db"),
            }
            for s in data["sites"]
        }  # fmt: skip
    weights = data["proof"]["weights"] if data["proof"] else {}
    return {n: {"format": w["format"], "bytes": None, "sqnr_db": w["sqnr_db"]} for n, w in weights.items()}


def cells(row: Mapping[str, Any]) -> list[str]:
    """The figures of a row as people read them, without the report's name."""
    ratio, bits, worst, speed = (row[k] for k in ("ratio", "bits_per_weight", "worst_sqnr_db", "speed"))
    return [
        row["state"],
        "" if row["bytes"] is None else size(row["bytes"]),
        "" if ratio is None else f"{ratio:.2f}x",
        "" if bits is None else f"{bits:.2f}",
        "" if worst is None else decibels(worst),
        "" if speed is None else f"{speed:.2f}x",
        f"{row['encoded']} of {row['weights']}",
    ]


def site_cell(site: Mapping[str, Any]) -> str:
    """What a weight is in one report."""
    if site["format"] is None:
        return "absent"
    error = "" if site["sqnr_db"] is None else f", {decibels(site['sqnr_db'])}"
    return f"{site['format']}{error}"
