"""Decisions about constant weights, and the plan that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Protocol, TypeAlias, TypedDict

import onnx
from numpy.typing import NDArray

from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.observers.clip import Clip
from onnxquant.observers.histogram import HistogramSummary
from onnxquant.plan.activations import ActivationRecord, SampleUse
from onnxquant.pruning.records import Pruned
from onnxquant.solvers.rtn import Rtn


class WeightFacts(TypedDict):
    """Facts about one constant weight of the float model; the fields of the same names in a decision."""

    name: str
    role: str
    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    float_bytes: int


@dataclass(frozen=True, kw_only=True)
class _WeightDecision:
    """A decision about one constant weight of the float model.

    Attributes:
        name: name of the weight
        role: roles of the nodes that consume it; empty where it is no site
        nodes: names of those nodes
        shape: shape of the float tensor
        dtype: element type of the float tensor
        float_bytes: size of the float tensor
        reason: explanation of the decision, for people
        refusals: targets that were tried in vain, with their reasons
    """

    name: str
    role: str
    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    float_bytes: int
    reason: str = ""
    refusals: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Number of weights in the tensor."""
        return prod(self.shape)

    @property
    def facts(self) -> WeightFacts:
        """Facts about the weight."""
        return {
            "name": self.name,
            "role": self.role,
            "nodes": self.nodes,
            "shape": self.shape,
            "dtype": self.dtype,
            "float_bytes": self.float_bytes,
        }

    def _to_dict(self, form: Format | None, target: str | None, nbytes: int) -> dict[str, Any]:
        """The entries of either kind of decision, as reports hold them."""
        return {
            "name": self.name,
            "role": self.role,
            "nodes": list(self.nodes),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "format": form.name if form else None,
            "parameters": _parameters(form) if form else {},
            "target": target,
            "folded": False,
            "solver": None,
            "float_bytes": self.float_bytes,
            "bytes": nbytes,
            "bits_per_weight": round(8 * nbytes / self.elements, 4) if self.elements else 0.0,
            "compression_ratio": round(self.float_bytes / nbytes, 4) if nbytes else None,
            "reason": self.reason,
            "refusals": list(self.refusals),
        }


@dataclass(frozen=True, kw_only=True)
class KeepDecision(_WeightDecision):
    """The decision to leave a weight in float."""

    format: ClassVar[None] = None
    target: ClassVar[None] = None

    @property
    def nbytes(self) -> int:
        """Size of the weight in the output."""
        return self.float_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per weight."""
        return 8 * self.nbytes / self.elements if self.elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return self._to_dict(None, None, self.nbytes)


@dataclass(frozen=True, kw_only=True)
class EncodeDecision(_WeightDecision):
    """The decision to encode a weight.

    Attributes:
        format: format of the codes
        target: name of the target that makes nodes of them
        nbytes: size of the planes
        folded: whether the weight is decoded to a float tensor when a session is created
        solver: name of the solver that chooses the codes; ``auto`` until one is assigned
        clip: clipping of the weight before its codes are chosen, as ``Clip.parse`` reads it
    """

    format: Format
    target: str
    nbytes: int
    folded: bool = False
    solver: str = Rtn.name
    clip: str | None = None

    def clipped(self, weight: NDArray[Any]) -> NDArray[Any]:
        """The weight whose codes are chosen: the float weight itself, or clipped."""
        return weight if self.clip is None else Clip.parse(self.clip)(weight, self.format)

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per weight, side information and padding included."""
        return 8 * self.nbytes / self.elements if self.elements else 0.0

    def kept_in_float(self, reason: str) -> KeepDecision:
        """The decision to leave the weight in float after all."""
        return KeepDecision(**self.facts, reason=reason, refusals=self.refusals)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        entries = self._to_dict(self.format, self.target, self.nbytes)
        return entries | {"folded": self.folded, "solver": self.solver} | ({"clip": self.clip} if self.clip else {})


Decision: TypeAlias = EncodeDecision | KeepDecision


def decision_from_dict(entries: Mapping[str, Any]) -> Decision:
    """The decision whose ``to_dict`` gave these entries.

    Raises:
        RecipeError: no such format is installed.
    """
    facts: WeightFacts = {
        "name": entries["name"],
        "role": entries["role"],
        "nodes": tuple(entries["nodes"]),
        "shape": tuple(entries["shape"]),
        "dtype": entries["dtype"],
        "float_bytes": entries["float_bytes"],
    }
    refusals = tuple(entries["refusals"])
    if entries["format"] is None:
        return KeepDecision(**facts, reason=entries["reason"], refusals=refusals)
    return EncodeDecision(
        **facts,
        reason=entries["reason"],
        refusals=refusals,
        format=format_named(entries["format"], **entries["parameters"]),
        target=entries["target"],
        nbytes=entries["bytes"],
        folded=entries["folded"],
        solver=entries["solver"],
        clip=entries.get("clip"),
    )


class RoundedActivations(Protocol):
    """Activations that are rounded to integers."""

    @property
    def histograms(self) -> Mapping[str, HistogramSummary]:
        """Histograms by tensor that ranges were chosen by; for reports, not for the file."""

    @property
    def record(self) -> ActivationRecord:
        """The part of the file's metadata, and of reports, that is about activations."""

    @property
    def slow_on_clients(self) -> Mapping[str, str]:
        """Kernels, or their weights, that stay in float for clients of the file, with the reason."""

    def insert(self, proto: onnx.ModelProto) -> None:
        """Add the nodes that round them to a model whose weights are lowered."""


@dataclass(frozen=True)
class Float16Plan:
    """The conversion of all that stays in float to float16.

    Attributes:
        keep_io_types: whether inputs and outputs stay float32
        types: element types of the float model, by name
        unfit: names of weights that hold numbers which float16 has not
    """

    keep_io_types: bool
    types: Mapping[str, int]
    unfit: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """A decision for every constant weight of a model.

    Attributes:
        decisions: decisions in graph order, sites first
        unused_rules: places of the rules that matched no weight, without those that are optional
        predicted_bytes: exact size of the output; None before it is computed
        activations: activations that are rounded; None where all stay floats
        integer_operators: whether nodes between their codes become operators of ours, which our library computes
        rescaled: names of weights that were rescaled before they are encoded; the model's function is the same
        origin: JSON that tells what the output was made of
        preparation: JSON that tells how samples become inputs; empty: there were no samples
        samples: use of the samples that weights are solved with; None where none are
        float16: conversion of all that stays in float; None where it keeps its types
        pruned: changes by pruning; None where nothing was pruned
    """

    decisions: tuple[Decision, ...]
    unused_rules: tuple[int, ...] = ()
    predicted_bytes: int | None = None
    activations: RoundedActivations | None = None
    integer_operators: bool = False
    rescaled: tuple[str, ...] = ()
    origin: str = ""
    preparation: str = ""
    samples: SampleUse | None = None
    float16: Float16Plan | None = None
    pruned: Pruned | None = None

    @property
    def encoded(self) -> list[EncodeDecision]:
        """Decisions that change a weight."""
        return [d for d in self.decisions if isinstance(d, EncodeDecision)]

    @property
    def nbytes(self) -> int:
        """Size of all constant weights in the output."""
        return sum(d.nbytes for d in self.decisions)

    @property
    def activation_record(self) -> ActivationRecord | None:
        """The record of rounded activations; None where all stay floats."""
        return self.activations.record if self.activations else None

    @property
    def observed(self) -> dict[str, HistogramSummary]:
        """Histograms of activations that ranges were chosen by."""
        return dict(self.activations.histograms) if self.activations else {}


def _parameters(form: Format) -> dict[str, Any]:
    """Parameters that are set, and settings that encoding chose: enough to make the format again."""
    return {**{p: getattr(form, p) for p in form.parameters() if getattr(form, p) is not None}, **form.settings()}
