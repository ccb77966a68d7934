"""Ways of quantizing that can suit a model, by what its weights are read by, most promising first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.json_data import JsonValue
from onnxquant.numerics.score import GOOD_DB
from onnxquant.passes.pipeline import prepare
from onnxquant.recipe.values import Goal

# Ops of less than this part of the weights decide about no way.
_SHARE = 0.1


@dataclass(frozen=True)
class Way:
    """A way of quantizing a model.

    Attributes:
        name: name in tables.
        options: options that make it.
        rescues: whether it is only tried after another way whose file loses too much.
    """

    name: str
    options: Mapping[str, JsonValue]
    rescues: bool = False


INT8 = Way("int8 weights", {"format": "int8"})
INT4 = Way("int4 weights", {"format": "int4"})
MIXED = Way("int8 and int4 weights", {"formats": ["int8", "int4"], "min_sqnr": GOOD_DB}, rescues=True)
DYNAMIC = Way("dynamic int8", {"activations": "dynamic"})
STATIC = Way("static int8", {"activations": "static"})
STATIC_SPARING = Way(
    "static int8, some kernels in float",
    {"activations": "static", "auto_exclude": True, "min_sqnr": GOOD_DB},
    rescues=True,
)
FLOAT16 = Way("float16 weights", {"format": "f16"}, rescues=True)


def ways(model: Document, goal: Goal) -> list[Way]:
    """The ways that can suit a model; those that rescue follow the ones that they replace.

    Args:
        model: the original.
        goal: measure that decides among files.
    """
    shares = _shares(model)
    products, convolutions = shares["product"], shares["convolution"]
    lookups = shares["lookup"]
    integers = []
    if convolutions >= _SHARE or products >= _SHARE:
        integers.append(STATIC)
    if products >= _SHARE:
        integers.insert(0 if products > convolutions else 1, DYNAMIC)
    weights = [INT8, *([INT4] if products + lookups >= _SHARE else [])]
    first = weights + integers if goal is Goal.SMALL else integers + weights
    rescues = [STATIC_SPARING] if STATIC in integers and goal is not Goal.SMALL else []
    rescues += [MIXED] if INT4 in weights and goal is not Goal.FAST else []
    return [*first, *rescues, FLOAT16]


def _shares(model: Document) -> Counter[str]:
    """The part of the weights that products, convolutions, lookups and others read, by bytes."""
    prepared = model.copy()
    prepare(prepared)
    nbytes: Counter[str] = Counter()
    for site in find_sites(prepared)[0]:
        nbytes[_kind(site.role)] += site.nbytes
    total = sum(nbytes.values()) or 1
    return Counter({kind: part / total for kind, part in nbytes.items()})


def _kind(role: str) -> str:
    roles = role.split("+")
    if any(r in ("matmul", "gemm") for r in roles):
        return "product"
    if any(r.startswith("conv") for r in roles):
        return "convolution"
    return "lookup" if "gather" in roles else "other"
