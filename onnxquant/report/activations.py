"""What a report says of activations: where integers are computed with, what that leaves in float, and what to beware of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from onnxquant.validation.compare import Proof

# A kernel that loses this much to saturation loses more than 8-bit rounding costs it.
SATURATED_DB = 35.0
# The optimized graph may round a little differently than the plain one; not worse than this.
FUSION_DB = 3.0
_CLAMPS = ("Relu", "Clip")


def summary(made: Mapping[str, Any], proof: Proof | None) -> list[tuple[str, str]]:
    """Rows of what and value, counts first; empty where activations are floats."""
    if not made:
        return []
    kind = f"{made.get('kind')} {made.get('type')}{', symmetric' if made.get('symmetric') else ''}"
    rows = [("activations", kind)]
    if samples := made.get("samples"):
        judged = (
            f"{samples['judged']} others to judge by"
            if samples["apart"]
            else f"{samples['judged']} of them to judge by"
        )
        rows.append(("samples", f"{samples['calibrated']}, {judged}"))
    if made.get("method"):
        tried = ", ".join(f"{m} {score:.1f} dB" for m, score in made.get("tried", {}).items())
        rows.append(("ranges", f"{made['method']}{f' (tried: {tried})' if tried else ''}"))
    if variants := made.get("variants"):
        rows.append(("functions tried", ", ".join(f"{v} {score:.1f} dB" for v, score in variants.items())))
    if solver := made.get("solver"):
        nearest = len(made.get("not_solved", ()))
        rows.append(("codes of weights", f"{solver}{f', {nearest} rounded to nearest' if nearest else ''}"))
    if "integer_kernels" in made:
        rows.append(("kernels on integers", str(made["integer_kernels"])))
    left = Counter(made.get("left_in_float", {}).values())
    rows += [("kernels in float", f"{count}: {reason}") for reason, count in left.most_common()]
    if proof:
        reasons = Counter((c["op"], c["reason"]) for c in proof.activations.get("conversions", ()))
        rows += [(f"{op} that stay", f"{count}: {reason}") for (op, reason), count in reasons.most_common()]
        if losses := proof.activations.get("saturation"):
            some = [loss for loss in losses.values() if loss["saturating"]]
            worst = min((float(loss["sqnr_db"]) for loss in some), default=math.inf)
            lowest = f", the worst keeps {worst:.1f} dB" if some else ""
            rows.append(("saturating without VNNI", f"{len(some)} of {len(losses)} kernels{lowest}"))
    return rows


def details(made: Mapping[str, Any], proof: Proof | None) -> list[tuple[str, str]]:
    """Rows of name and what is said of it."""
    rows = [(name, f"in float: {reason}") for name, reason in made.get("left_in_float", {}).items()]
    nearest = "rounded to nearest: too many columns for gptq, or readers that differ"
    rows += [(name, nearest) for name in made.get("not_solved", ())]
    if proof:
        rows += [(c["node"], f"{c['op']}: {c['reason']}") for c in proof.activations.get("conversions", ())]
        for name, loss in proof.activations.get("saturation", {}).items():
            if loss["saturating"]:
                share = 100 * loss["saturating"] / loss["pairs"]
                db = float(loss["sqnr_db"])
                rows.append((name, f"without VNNI {share:.3g} % of its pairs saturate: {db:.1f} dB"))
    return rows


def warnings(made: Mapping[str, Any], proof: Proof | None) -> list[str]:
    """What costs speed or accuracy, and where."""
    if not made:
        return []
    out = _slow(made, proof)
    return out + ([*_saturation(proof), *_fusion(proof)] if proof else [])


def _slow(made: Mapping[str, Any], proof: Proof | None) -> list[str]:
    kind = str(made.get("type"))
    if kind.endswith("16"):
        return [f"{kind} activations have no integer kernels on CPUs: slower than float; uint8 is what is fast"]
    out = []
    if not made.get("integer_kernels", 1):
        out.append("no op computes on integers: only weights are smaller; -v says why of each")
    if kind == "int8":
        out.append("int8 activations are slower than uint8 ones on x86 CPUs, which multiply unsigned by signed bytes")
    clamps = sum(proof.kernels.get("stock", {}).get(op, 0) for op in _CLAMPS) if proof else 0
    if made.get("symmetric") and clamps:
        out.append(
            f"{clamps} Relu or Clip stay as nodes of their own, with conversions around them: codes symmetric around zero "
            f"cannot do their work by saturating"
        )
    return out


def _saturation(proof: Proof) -> list[str]:
    losses = {n: float(v["sqnr_db"]) for n, v in proof.activations.get("saturation", {}).items()}
    low = {n: db for n, db in losses.items() if db < SATURATED_DB}
    if not low:
        return []
    worst = min(low, key=lambda n: low[n])
    many = f"{len(low)} kernel{'s' * (len(low) > 1)}"
    return [
        f"on x86 CPUs without VNNI {many} would lose accuracy to 16-bit saturation ({worst}: {low[worst]:.1f} dB); there set "
        f"the session option session.x64quantprecision to 1 (exact, slower), or keep those in float with --exclude; CPUs "
        f"with VNNI and ARM are exact"
    ]


def _fusion(proof: Proof) -> list[str]:
    out = []
    for name, plain in proof.outputs.get("float vs unoptimized", {}).items():
        fused = proof.outputs.get("float vs deployed", {}).get(name, plain)
        before, after = float(plain["sqnr_db"]), float(fused["sqnr_db"])
        if after < before - FUSION_DB:
            out.append(
                f"output {name!r} keeps {after:.1f} dB as onnxruntime optimizes the graph and {before:.1f} dB without: a "
                f"fused kernel rounds worse than the nodes it replaces"
            )
    return out
