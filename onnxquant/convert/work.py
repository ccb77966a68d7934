"""The work of a model: which kinds of operators take its time, and which its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

from onnxquant.errors import ModelError
from onnxquant.graph.analysis.quantized import ALREADY_QUANTIZED, integer_weights
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find_sites
from onnxquant.graph.traverse import nodes
from onnxquant.passes.pipeline import prepare
from onnxquant.runtime import NodeTime

# Ops of onnxruntime's optimized graphs that multiply matrices, or make convolutions.
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention", "MultiHeadAttention")
_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "NchwcConv")
_RECURRENT = ("LSTM", "GRU", "RNN")

_Amount = TypeVar("_Amount", int, float)


class Kind(StrEnum):
    """Kinds of work."""

    CONVOLUTION = "convolutions"
    PRODUCT = "matrix products"
    LOOKUP = "lookups"
    RECURRENT = "recurrent layers"
    OTHER = "other operators"


class Gain(NamedTuple):
    """Factors by which a kind of work becomes faster on integers, with and without instructions for 8-bit products."""

    vnni: float
    plain: float


# What integers bring at least, of a kind's own time: the lower end of what docs/benchmarks.md has for its models on a CPU
# with VNNI, and on one with AVX2 alone. Attention's own products stay in float, and so may recurrent layers.
GAINS = {Kind.CONVOLUTION: Gain(2.5, 1.5), Kind.PRODUCT: Gain(2.0, 1.3)}
# Seconds that an op takes to round its inputs and outputs, on one core: small ones gain nothing.
_ROUNDING_SECONDS = 4e-6


@dataclass(frozen=True)
class Work:
    """The makeup of a model.

    Attributes:
        nbytes: bytes of the weights by kind of what reads them.
        seconds: time of one run by kind; empty where it was not measured.
        nodes: number of nodes.
        weights: number of weights.
        slowest: the nodes that take most time.
        ops: number of ops with a weight by kind; empty where they are not known.
    """

    nbytes: dict[Kind, int]
    seconds: dict[Kind, float] = field(default_factory=dict)
    nodes: int = 0
    weights: int = 0
    slowest: tuple[NodeTime, ...] = ()
    ops: dict[Kind, int] = field(default_factory=dict)

    def share_of_bytes(self, *kinds: Kind) -> float:
        """The part of the weights' bytes that some kinds read."""
        return sum(self.nbytes.get(kind, 0) for kind in kinds) / (sum(self.nbytes.values()) or 1)

    def share_of_time(self, *kinds: Kind) -> float:
        """The part of the time that some kinds take; of the bytes where no time was measured."""
        if not self.seconds:
            return self.share_of_bytes(*kinds)
        return sum(self.seconds.get(kind, 0.0) for kind in kinds) / (sum(self.seconds.values()) or 1.0)

    def speedup(self, *, vnni: bool) -> float:
        """The least factor that integers are to be expected to bring for the whole model."""
        left, whole = 1.0, sum(self.seconds.values())
        for kind, gain in GAINS.items():
            saved = self.share_of_time(kind) * (1 - 1 / (gain.vnni if vnni else gain.plain))
            rounding = self.ops.get(kind, 0) * _ROUNDING_SECONDS / whole if whole else 0.0
            left -= max(0.0, saved - rounding)
        return 1 / left


@dataclass(frozen=True)
class PreparedModel:
    """A model after the passes that every way begins with.

    Attributes:
        original: the model as it was loaded.
        document: the same, prepared.
        sites: its weights.
    """

    original: Document
    document: Document
    sites: Sequence[Site]

    @classmethod
    def of(cls, original: Document) -> PreparedModel:
        """The prepared model of an original, which is not changed."""
        document = original.copy()
        prepare(document)
        return cls(original, document, find_sites(document)[0])

    @property
    def integers(self) -> str:
        """The operators that read integer weights, where there are no others; empty where there are."""
        return "" if self.sites else integer_weights(self.document.proto)

    def refuse_integers(self) -> None:
        """Refuse a model whose weights are integers already.

        Raises:
            ModelError: they are.
        """
        if self.integers:
            raise ModelError(f"{self.document.name}: {ALREADY_QUANTIZED.format(self.integers)}")


def work_of(model: PreparedModel, times: Sequence[NodeTime] = ()) -> Work:
    """The work of a model.

    Args:
        model: the model.
        times: times of the original's nodes; empty: not measured.
    """
    nbytes = sums_by_kind((kind_of_role(site.role), site.nbytes) for site in model.sites)
    seconds = sums_by_kind((kind_of_op(time.op), time.seconds) for time in times)
    number = sum(1 for _ in nodes(model.original.proto))
    return Work(nbytes, seconds, number, len(model.sites), tuple(times[:3]), ops_by_kind(model.sites))


def ops_by_kind(sites: Iterable[Site]) -> dict[Kind, int]:
    """Number of ops that read weights, by kind."""
    return sums_by_kind((kind_of_role(site.role), len(site.uses)) for site in sites)


def sums_by_kind(amounts: Iterable[tuple[Kind, _Amount]]) -> dict[Kind, _Amount]:
    """The sum of the amounts of each kind."""
    sums: dict[Kind, _Amount] = {}
    for kind, amount in amounts:
        sums[kind] = sums[kind] + amount if kind in sums else amount
    return sums


def kind_of_role(role: str) -> Kind:
    """The kind of work that reads a weight of such a role."""
    roles = role.split("+")
    if any(role in ("matmul", "gemm") for role in roles):
        return Kind.PRODUCT
    if any(role.startswith("conv") for role in roles):
        return Kind.CONVOLUTION
    if "recurrent" in roles:
        return Kind.RECURRENT
    return Kind.LOOKUP if "gather" in roles else Kind.OTHER


def kind_of_op(op: str) -> Kind:
    """The kind of work of an operator."""
    if op in _CONVOLUTIONS:
        return Kind.CONVOLUTION
    if op in _PRODUCTS:
        return Kind.PRODUCT
    if op in _RECURRENT:
        return Kind.RECURRENT
    return Kind.LOOKUP if op == "Gather" else Kind.OTHER
