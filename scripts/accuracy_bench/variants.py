"""The conversions that are compared: our formats with each solver, and other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peer_bench.peers import Variant

# Name, then parameters.
FORMATS = (
    "int8,per_channel=true",
    "int8",
    "q8_0",
    "q6_k",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "q4_k",
    "nf4",
    "int4,block_size=32,symmetric=true",
    "int4,block_size=32,symmetric=false",
    "int4,block_size=128,symmetric=false",
    "int3,block_size=32,symmetric=false",
    "int2,block_size=32,symmetric=false",
)
# Between and beside the uniform formats.
BUDGETS = (3.6, 4.0, 4.7, 5.2, 6.0)
QUICK_FORMATS = ("int8", "int4,block_size=32,symmetric=false")


def parameters(text: str) -> dict[str, Any]:
    """Options of ``quantize`` from ``format,parameter=value,...``.

    >>> parameters("int4,block_size=32,symmetric=true")
    {'format': 'int4', 'block_size': 32, 'symmetric': True}
    """
    name, *pairs = text.split(",")
    options: dict[str, Any] = {"format": name}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def ours(formats: Sequence[str], solvers: Sequence[str]) -> Iterator[Variant]:
    """Each format with each solver; the proof is left out, because the task is what proves here."""
    for text in formats:
        for solver in solvers:
            options = {**parameters(text), "solver": solver, "proof": False}
            yield Variant(f"{text.replace(',', ' ')} {solver}", "onnxquant", options)


def budgets(bits: Sequence[float], formats: Sequence[str] = ()) -> Iterator[Variant]:
    """Formats chosen under a bound on bits per weight."""
    for bound in bits:
        options = {"budget_bpw": bound, "proof": False, **({"formats": list(formats)} if formats else {})}
        yield Variant(f"budget {bound:g}", "onnxquant", options)


def recipes(names: Sequence[str]) -> Iterator[Variant]:
    """Recipes that come with the package."""
    for name in names:
        yield Variant(f"recipe {name}", "onnxquant", {"recipe": name, "proof": False})


def _nbits(name: str, **options: object) -> Variant:
    # In an environment that has torch and onnx_ir beside onnxruntime, which some of its algorithms need.
    return Variant(f"ort {name}", "aimet", options, worker="accuracy_bench.run_nbits")


def _nncf(name: str, **options: object) -> Variant:
    return Variant(f"nncf {name}", "nncf", options, worker="accuracy_bench.run_nncf_weights")


def _gguf(kind: str, tables: str = "") -> Variant:
    name, options = (f"{kind}, tables {tables}", {"tables": tables}) if tables else (kind, {})
    return Variant(f"llama.cpp {name}", "gguf", {"kind": kind, **options}, worker="accuracy_bench.run_gguf")


_INT4: Mapping[str, Any] = {"group_size": 32, "all_layers": True}
PEERS = (
    _nbits("rtn", algorithm="rtn"),
    _nbits("rtn symmetric", algorithm="rtn", symmetric=True),
    _nbits("rtn with tables", algorithm="rtn", op_types_to_quantize=["MatMul", "Gather"]),
    _nbits("k_quant", algorithm="k_quant"),
    _nbits("hqq", algorithm="hqq"),
    # It runs the whole model once per product and sample.
    _nbits("gptq", algorithm="gptq", samples=8),
    _nncf("int8", mode="INT8_ASYM"),
    _nncf("int4 symmetric", mode="INT4_SYM", **_INT4),
    _nncf("int4", mode="INT4_ASYM", **_INT4),
    _nncf("int4 awq and scales", mode="INT4_ASYM", data=True, awq=True, scale_estimation=True, **_INT4),
)
# As llama.cpp mixes them where embedding and head are tied, too.
LLAMA = (
    *(_gguf(kind) for kind in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")),
    *(_gguf(kind, "Q8_0") for kind in ("Q5_0", "Q4_1", "Q4_0")),
)
QUICK_PEERS = ("ort rtn", "nncf int4", "llama.cpp Q4_1")
