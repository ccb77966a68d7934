"""Rows of the tables that pages and texts share: one per weight, and one per figure of cost, output, or what was left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxquant.report.verdict import decibels, milliseconds, size

Data = Mapping[str, Any]
# Key, title, and whether it is a figure.
SITES = (
    ("name", "weight", False), ("role", "role", False), ("shape", "shape", False), ("format", "format", False),
    ("solver", "solver", False), ("target", "target", False), ("kernel", "kernel", False), ("bytes", "bytes", True),
    ("bits", "bits", True), ("ratio", "ratio", True), ("sqnr_db", "SQNR dB", True), ("max_error", "max error", True),
    ("mean_error", "mean error", True), ("sum_test", "sum test", True), ("gradient_test", "gradient z", True),
    ("why", "why", False),
)  # fmt: skip


def sites(data: Data) -> list[dict[str, Any]]:
    """A row per weight; of a comparison those that are encoded, with what the file says of them."""
    if data["sites"]:
        return [_site(s) for s in data["sites"]]
    weights = data["proof"]["weights"] if data["proof"] else {}
    unknown = {**{key: None for key, _, _ in SITES}, "left": False}
    told = ("format", "target", "kernel")
    return [{**unknown, "name": n, **_errors(w), **{k: w.get(k) for k in told}} for n, w in weights.items()]


def _site(site: Data) -> dict[str, Any]:
    error = site.get("error", {})
    refused = f" (not {'; not '.join(site['refusals'])})" if site["refusals"] and site["format"] else ""
    return {
        "name": site["name"],
        "role": site["role"],
        "shape": "x".join(map(str, site["shape"])),
        "format": site["format"] or site["dtype"],
        "solver": site["solver"],
        "target": site["target"],
        "kernel": site.get("kernel"),
        "bytes": site["bytes"],
        "bits": site["bits_per_weight"],
        "ratio": site["compression_ratio"],
        "why": site["reason"] + refused,
        "left": site["format"] is None,
        **_errors(error),
    }


def _errors(error: Data) -> dict[str, Any]:
    found = {k: error.get(k) for k in ("sqnr_db", "max_error", "mean_error")}
    found["sum_test"] = error.get("sum_test", {}).get("relative_error")
    found["gradient_test"] = error.get("gradient_test", {}).get("z")
    return found


def cell(value: Any) -> str:
    """A figure or a word of a site's row as people read it; the page shows the same digits."""
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return f"{value:.4g}" if isinstance(value, float) else {"inf": "exact", "-inf": "none"}.get(value, str(value))


def costs(data: Data) -> list[dict[str, Any]]:
    """What it costs before and after: ``name``, ``original``, ``quantized`` as numbers, ``before``, ``after``, ``ratio``."""
    proof = data["proof"]
    out = []
    after = data["output_bytes"] or data["predicted_bytes"]
    if after:
        name = "size" if data["output_bytes"] else "size, predicted"
        out.append(_cost(name, data["original_bytes"], after, size))
    if proof and proof["latency"]:
        seconds = proof["latency"]["seconds"]
        out.append(_cost("latency", seconds["original"], seconds["quantized"], milliseconds))
        if "quantized, stock" in seconds:
            out.append(
                _cost("latency without our library", seconds["original"], seconds["quantized, stock"], milliseconds)
            )
    if proof and proof["loading"]:
        before, now = proof["loading"]["original"], proof["loading"]["quantized"]
        out.append(_cost("load time", before["seconds"], now["seconds"], milliseconds))
        out.append(_cost("memory", before["resident_bytes"], now["resident_bytes"], size))
    return out


def _cost(name: str, before: float, after: float, shown: Any) -> dict[str, Any]:
    ratio = f"{before / after:.2f}x" if after else ""
    return {
        "name": name, "original": before, "quantized": after, "before": shown(before), "after": shown(after), "ratio": ratio,
    }  # fmt: skip


def outputs(data: Data) -> list[list[str]]:
    """Compared pair, output, SQNR, cosine, MSE, largest error, mean error."""
    pairs = data["proof"]["outputs"] if data["proof"] else {}
    return [
        [pair, name, decibels(d["sqnr_db"]), *(cell(d[k]) for k in ("cosine", "mse", "max_error", "mean_error"))]
        for pair, by_name in pairs.items()
        for name, d in by_name.items()
    ]


def refusals(data: Data) -> list[list[str]]:
    """What was left in float, or could not take a target, and why: reason, weights, bytes, the first names."""
    groups: dict[str, list[Data]] = {}
    for site in data["sites"]:
        reasons = site["refusals"] if site["format"] else [site["reason"]]
        for reason in dict.fromkeys(reasons):
            groups.setdefault(f"{'target refused' if site['format'] else 'left in float'}: {reason}", []).append(site)
    order = sorted(groups.items(), key=lambda kv: -sum(s["float_bytes"] for s in kv[1]))
    return [
        [reason, str(len(found)), size(sum(s["bytes"] for s in found)), ", ".join(s["name"] for s in found[:3])]
        for reason, found in order
    ]


def facts(data: Data) -> list[tuple[str, str]]:
    """Environment, command, hashes: what, value."""
    rows = [("source", data["source"]), ("output", str(data["output"]))]
    if data["command"]:
        rows.append(("command", data["command"]))
    for side, by_name in data["sha256"].items():
        rows += [(f"SHA-256 of {side} {name}", digest) for name, digest in by_name.items()]
    rows += [(f"option {k}", str(v)) for k, v in data["asked"].get("options", {}).items()]
    return rows + [(k.replace("_", " "), v) for k, v in data["environment"].items()]
