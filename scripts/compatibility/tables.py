"""Markdown of what releases did with the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from compatibility.files import DIGITS, Case
from onnxquant.runtime import histogram

Results = dict[str, dict[str, dict[str, Any]]]  # by release, by case: sqnr, ratio, kernels; or error
_QUANTIZED = re.compile(r"NBits|BlockQuantized|Integer|DynamicQuantize|QLinear|QGemm|^onnxquant\.|DequantizeLinear")
# What is left of a model of one op whose weight was decoded ahead.
_FLOAT = re.compile(r"MatMul|Gather|Conv|Reshape|Transpose|Reorder|Squeeze|Unsqueeze")
_TITLES = {
    DIGITS: "The embedded model, 16 images",
    "product": "A product: one row by 1024 x 1024",
    "lookup": "A lookup: 512 rows of 1024 x 256",
    "convolution": "A convolution: 256 to 64 channels, 3 x 3, of 14 x 14",
}


def kernels(path: Path, *, single: bool) -> str:
    """The operators that compute on codes in the graph that onnxruntime ran.

    Args:
        path: the graph.
        single: it was made of one op, so what else is in it decodes the weight.

    Returns:
        ops on codes, with their number in a whole model; ``float`` where weights were decoded when the session was
        created, ``per call`` where standard ops decode them later.
    """
    counts = histogram(onnx.load(path, load_external_data=False))
    quantized = {op.rpartition(".")[2]: n for op, n in sorted(counts.items()) if _QUANTIZED.search(op)}
    if quantized:
        return ", ".join(op if single else f"{op} {n}" for op, n in quantized.items())
    return "float" if not single or all(_FLOAT.search(op) for op in counts) else "per call"


def tables(cases: Sequence[Case], results: Results, needs: dict[str, str]) -> str:
    """One table per model, and below them why files do not load.

    Args:
        cases: cases that were run.
        results: results of the cases by release; ``kernels`` may be missing.
        needs: oldest onnxruntime that ``info`` names, by case.
    """
    reasons: list[str] = []
    out = []
    for model in dict.fromkeys(c.model for c in cases):
        rows = [c for c in cases if c.model == model]
        last = "quantized kernels in the newest" if model == DIGITS and "kernels" in _any(results) else None
        head = ["format, target", *results, "`info` says", *([last] if last else [])]
        out += [f"### {_TITLES[model]}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for case in rows:
            results_of_case = [by_case[case.key] for by_case in results.values()]
            cells = [_cell(case, r, reasons) for r in results_of_case] + [f">= {needs[case.key]}"]
            cells += [str(results_of_case[-1].get("kernels", ""))] if last else []
            out.append(f"| {case.name}{', our library' if case.library else ''} | " + " | ".join(cells) + " |")
        out.append("")
    out += [f"({i + 1}) `{reason}`\n" for i, reason in enumerate(reasons)]
    return "\n".join(out).rstrip()


def _any(results: Results) -> dict[str, Any]:
    return next(r for by_case in results.values() for r in by_case.values() if "error" not in r)


def _cell(case: Case, result: dict[str, Any], reasons: list[str]) -> str:
    if "error" in result:
        # Behind the place in onnxruntime's sources and the names of nodes; from WebAssembly it is an address.
        reason = re.split(r"Error\] | was false\. |&\) ", result["error"])[-1].strip()
        reason = "an exception without text" if reason.isdigit() else reason
        if reason not in reasons:
            reasons.append(reason)
        return f"no ({reasons.index(reason) + 1})"
    if case.model == DIGITS:
        return f"{result['sqnr']:.1f} dB"
    what = result.get("kernels") or f"{result['sqnr']:.1f} dB"
    return f"{what}, {result['ratio']:.2f}"


def faults(cases: Sequence[Case], results: Results, needs: dict[str, str]) -> list[str]:
    """Contradictions of releases with ``info`` or with each other.

    A file must load where ``info`` says so and nowhere else (with our library also elsewhere: its operators need no body),
    and compute what it does on the newest release: 6 dB are for kernels that round activations in another way.
    """
    contradictions = []
    newest = list(results)[-1]
    for case in cases:
        for release, by_case in results.items():
            result, expected = by_case[case.key], results[newest][case.key]
            promised = _number(release) >= _number(needs[case.key])
            loads = "error" not in result
            if promised != loads and not (loads and case.library):
                contradictions.append(f"{case.key} on {release}: info says >= {needs[case.key]}; {result}")
            elif promised and "error" not in expected and abs(result["sqnr"] - expected["sqnr"]) > 6:
                levels = f"{result['sqnr']:.1f} dB on {release}, {expected['sqnr']:.1f} dB on {newest}"
                contradictions.append(f"{case.key}: {levels}")
    return contradictions


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", release)[:2])
