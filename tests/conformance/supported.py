"""Combinations that work: format x target x kind of site, activations, and format x solver.

They are computed here and written down in supported.json.

``python tests/conformance/supported.py`` shows what the package lost or gained against the table; with ``--write`` it
renews the table. A lost line is a regression until somebody decides otherwise.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # pytest puts these on the path by itself
    sys.path.insert(0, str(Path(__file__).parents[1]))

import graphs
import numpy as np
import onnx
from numpy.typing import NDArray

import onnxquant
from onnxquant.formats import formats
from onnxquant.graph.traverse import graphs as graphs_of
from onnxquant.solvers import Solver, solvers
from onnxquant.targets import targets
from onnxquant.targets.kinds import Activations

TABLE = Path(__file__).with_name("supported.json")
Options = dict[str, Any]
# A model for every kind of site.
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "matmul": lambda: graphs.matmul(),
    "matmul_opset21": lambda: graphs.matmul(64, 50, opset=21),
    "matmul_uneven": lambda: graphs.matmul(100, 50, opset=21),
    "matmul_half": lambda: graphs.matmul(64, 48, dtype="float16"),
    "gemm": lambda: graphs.gemm(),
    "gemm_plain": lambda: graphs.gemm(100, 48, trans_b=0, alpha=1.0, beta=1.0),
    "gather": lambda: graphs.gather(),
    "tied": lambda: graphs.tied(),
    "conv": lambda: graphs.conv(),
    "conv_depthwise": lambda: graphs.conv(32, 32, 32),
    "conv_transpose": lambda: graphs.conv(8, 24, 1, "ConvTranspose"),
    "conv_transpose_grouped": lambda: graphs.conv(8, 24, 4, "ConvTranspose"),
    "lstm": lambda: graphs.lstm(),
    "if": lambda: graphs.branches(),
    # Whole blocks of 64, which formats with a table demand.
    "matmul_blocks": lambda: graphs.matmul(320, 50),
    "matmul_blocks_half": lambda: graphs.matmul(128, 64, dtype="float16"),
    "gemm_bias": lambda: graphs.gemm(128, 48, alpha=1.0, beta=1.0),
    "gather_blocks": lambda: graphs.gather(50, 192),
    "conv_blocks": lambda: graphs.conv(64, 24),
}
_OTHERS = [
    {"format": f, **extra}
    for f in ("int8", "int4", "int2")
    for extra in (
        {"symmetric": False},
        {"per_channel": True},
        {"per_channel": False},
        {"block_size": 16, "symmetric": False},
        {"block_size": 256},
    )
]
_OTHERS += [{"format": f"int{b}", "symmetric": False, "block_size": 32} for b in (3, 5, 6)]
_OTHERS += [{"format": f"int{b}", "symmetric": False, "zero_point": "float"} for b in (8, 4, 3)]


def label(options: Options) -> str:
    """The name of a variant in the table and in test names."""
    return "-".join(str(v) if k == "format" else f"{k}={str(v).lower()}" for k, v in options.items())


# Every format of the registry that changes weights, and integers with other parameters.
_FORMATS: list[Options] = [{"format": f.name} for f in formats() if not f.changes_nothing]
VARIANTS: dict[str, Options] = {label(o): o for o in [*_FORMATS, *_OTHERS]}
ACTIVATIONS = (Activations.DYNAMIC, Activations.STATIC)


@dataclass(frozen=True)
class Refused:
    """A combination that the package refuses, with the reason that it gives."""

    reason: str


def feeds(proto: onnx.ModelProto, seed: int = 11) -> dict[str, NDArray[Any]]:
    """Random inputs of a model; open dimensions are 2."""
    generator = graphs.rng(seed)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in proto.graph.input:
        shape = [d.dim_value or 2 for d in spec.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type)
        if dtype == np.bool_:
            inputs[spec.name] = np.array(True)
        elif dtype.kind == "i":
            inputs[spec.name] = generator.integers(-40, 40, shape).astype(dtype)
        else:
            inputs[spec.name] = generator.standard_normal(shape).astype(dtype)
    return inputs


@cache
def model(kind: str) -> onnx.ModelProto:
    """The model of a kind of site; callers must not change it."""
    return MODELS[kind]()


def planned(kind: str, **options: Any) -> dict[str, str] | Refused:
    """The target of each weight as it is planned, ``float`` for those left alone; or why nothing is encoded."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.onnx"
        try:
            report = onnxquant.quantize(model(kind), output, dry_run=True, proof=False, **options)
        except onnxquant.ModelError as error:
            return Refused(str(error))
        assert not output.exists()
    return {site["name"]: site["target"] or "float" for site in report.to_dict()["sites"]}


def of_rules() -> list[str]:
    """Names of the targets that a rule can ask for: those whose products take floats."""
    return [t.name for t in targets() if t.activations is Activations.NONE]


def weights_only(kind: str) -> dict[str, dict[str, dict[str, str] | Refused]]:
    """Plans for one kind of site, by target and variant."""
    return {t: {v: planned(kind, target=t, **o) for v, o in VARIANTS.items()} for t in of_rules()}


def with_activations(kind: str) -> dict[str, dict[str, str] | Refused]:
    """Plans for one kind of site beside integer activations, by the kind of activations.

    Only weights of the model as it was: which others smoothing adds depends on figures.
    """
    proto = model(kind)
    samples = [feeds(proto, seed) for seed in range(4)]
    plans: dict[str, dict[str, str] | Refused] = {}
    for activations in ACTIVATIONS:
        plan = planned(kind, activations=activations, data=samples)
        own = {t.name for g in graphs_of(proto.graph) for t in g.initializer}
        plans[activations] = plan if isinstance(plan, Refused) else {n: t for n, t in plan.items() if n in own}
    return plans


def solved_by(solver: Solver) -> list[str]:
    """Formats, with default parameters, that a solver takes."""
    return [form.name for form in formats() if solver.refusal(form) is None]


def computed(kind: str, plans: dict[str, dict[str, dict[str, str] | Refused]]) -> dict[str, Any]:
    """The table's entry for one kind of site.

    A variant is listed for a target where every weight of the model gets that target, and listed with the targets
    that its weights get where some stay in float.
    """
    entry: dict[str, Any] = {}
    for target, by_variant in plans.items():
        works = [
            v for v, plan in by_variant.items() if not isinstance(plan, Refused) and set(plan.values()) == {target}
        ]
        partly = {v: plan for v, plan in by_variant.items() if not isinstance(plan, Refused) and v not in works}
        entry[target] = works + ([{"partly": partly}] if partly else [])
    for activations, plan in with_activations(kind).items():
        entry[f"activations={activations}"] = "refused" if isinstance(plan, Refused) else plan
    return entry


def table() -> dict[str, Any]:
    """The checked-in table."""
    entries: dict[str, Any] = json.loads(TABLE.read_text())
    return entries


def flat(kind: str, entry: dict[str, Any]) -> set[str]:
    """One line per combination of an entry, so that two entries can be compared."""
    lines: set[str] = set()
    for key, value in entry.items():
        variants = value if isinstance(value, list) else [value]
        for variant in variants:
            if isinstance(variant, dict) and "partly" in variant:
                lines |= {f"{kind} {key} {v}: {sorted(plan.items())}" for v, plan in variant["partly"].items()}
            else:
                lines.add(f"{kind} {key} {variant}")
    return lines


def combinations() -> Iterator[tuple[str, str, str]]:
    """Kind of site, target and variant of every combination that the table says works, wholly or in part."""
    for kind in MODELS:
        for target, variants in table()[kind].items():
            if target.startswith("activations="):
                continue
            for variant in variants:
                for name in variant["partly"] if isinstance(variant, dict) else [variant]:
                    yield kind, target, name


def beside(activations: Activations) -> list[str]:
    """Kinds of sites whose weights all meet integer activations, by the table."""
    targets_of = {t.activations: t.name for t in targets()}
    plans = {kind: table()[kind][f"activations={activations}"] for kind in MODELS}
    return [k for k, plan in plans.items() if plan != "refused" and targets_of[activations] in plan.values()]


def _rows(entries: dict[str, Any]) -> str:
    """The table as JSON, a line for each kind of site and target."""
    kinds = []
    for kind, entry in entries.items():
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entry.items())
        kinds.append(f" {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def _main() -> None:
    now = {kind: computed(kind, weights_only(kind)) for kind in MODELS} | {
        "solvers": {s.name: solved_by(s) for s in solvers()}
    }
    before = table() if TABLE.exists() else {}
    for kind in sorted({*now, *before}):
        old, new = flat(kind, before.get(kind, {})), flat(kind, now.get(kind, {}))
        print(*(f"- {line}" for line in sorted(old - new)), *(f"+ {line}" for line in sorted(new - old)), sep="\n")
    if "--write" in sys.argv[1:]:
        TABLE.write_text(_rows(now))


if __name__ == "__main__":
    _main()
