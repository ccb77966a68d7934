"""The kernels and operators of onnxruntime's releases on CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from onnxquant.clients.forms import Form
from onnxquant.clients.operators import entries, is_defined_by_others, schema
from onnxquant.errors import RecipeError, nearest

# Element types by the name that tables give them.
_FLOAT16 = "float16"
_FLOAT = "float"


@dataclass(frozen=True)
class Kernel:
    """A kernel, as releases register it.

    Attributes:
        first, last: places of the first and the last release that have it.
        since: version of the operator that it computes.
        until: the last version that it computes; None: no later one is known.
        types: element types by type constraint of the operator.
    """

    first: int
    last: int
    since: int
    until: int | None
    types: Mapping[str, frozenset[str]]

    def computes(self, version: int) -> bool:
        """Whether it computes a version of its operator."""
        return self.since == version or (self.until is not None and self.since <= version <= self.until)

    def takes(self, types: Mapping[str, str]) -> bool:
        """Whether it takes element types, by type constraint."""
        return all(types[name] in self.types[name] for name in types.keys() & self.types.keys())


@dataclass(frozen=True)
class Limit:
    """Values of attributes that releases take only from one on; of two that concern a form, the one with more of them holds.

    Attributes:
        domain, operator: the operator.
        attributes: values by attribute; 0: any but zero.
        element_type: element type of what the operator computes.
        first: place of the first release that takes it.
    """

    domain: str
    operator: str
    attributes: Mapping[str, int]
    element_type: str
    first: int

    def concerns(self, form: Form) -> bool:
        """Whether nodes of a form have this value."""
        if (self.domain, self.operator) != (form.domain, form.operator):
            return False
        if self.element_type == _FLOAT16 and _FLOAT16 not in dict(form.types).values():
            return False
        values = [(form.attribute(name), value) for name, value in self.attributes.items()]
        return all(own == value if value else bool(own) for own, value in values)


@dataclass(frozen=True)
class Releases:
    """Everything that onnxruntime's releases run on CPUs.

    Attributes:
        names: releases, oldest first.
        opsets: highest opset of each.
        ir_versions: highest version of the file format of each.
        kernels: kernels by domain and operator.
        limits: values of attributes that not every release takes.
    """

    names: tuple[str, ...]
    opsets: tuple[int, ...]
    ir_versions: tuple[int, ...]
    kernels: Mapping[tuple[str, str], tuple[Kernel, ...]]
    limits: tuple[Limit, ...]

    def place(self, release: str) -> int:
        """Place of a release, which may be given without its last number.

        Raises:
            RecipeError: there is no table of it.
        """
        minors = [name.rpartition(".")[0] for name in self.names]
        minor = release if release.count(".") == 1 else release.rpartition(".")[0]
        if minor not in minors:
            raise RecipeError(f"onnxruntime {release}: no table of this release{nearest(minor, minors)}")
        return minors.index(minor)

    def refusal(self, place: int, form: Form) -> str | None:
        """The reason why a release has no kernel for a form of nodes; None where it has one.

        Args:
            place: place of the release.
            form: the form.
        """
        kernels = [k for k in self.kernels.get((form.domain, form.operator), ()) if k.first <= place <= k.last]
        declared = schema(form.domain, form.operator, form.version)
        is_function = declared is not None and is_defined_by_others(declared)
        # A Constant is folded while the graph is read.
        if is_function or (form.domain, form.operator) == ("", "Constant"):
            return None
        if not kernels:
            return "no such operator"
        version = declared.since_version if declared is not None else 1
        kernels = [k for k in kernels if k.computes(version)]
        if not kernels:
            return f"no kernel of version {version}"
        types = dict(form.types)
        # onnxruntime computes in float32 what has no kernel for float16.
        wider = {name: _FLOAT if kind == _FLOAT16 else kind for name, kind in types.items()}
        if not any(k.takes(types) or k.takes(wider) for k in kernels):
            return f"no kernel for {', '.join(sorted(set(types.values())))}"
        return self._beyond_limit(place, form)

    def _beyond_limit(self, place: int, form: Form) -> str | None:
        """The reason why a release does not take a form's attributes; None where it does."""
        limits: dict[str, Limit] = {}  # by element type, those with more attributes winning
        for limit in sorted(self.limits, key=lambda limit: len(limit.attributes)):
            limits |= {limit.element_type: limit} if limit.concerns(form) else {}
        beyond = next((limit for limit in limits.values() if place < limit.first), None)
        if beyond is None:
            return None
        in_half = " in float16" * (beyond.element_type == _FLOAT16)
        needed = self.names[beyond.first].rpartition(".")[0]
        values = " with ".join(f"{name} {form.attribute(name)}" for name in beyond.attributes)
        return f"{values}{in_half} needs onnxruntime {needed}"


@cache
def releases() -> Releases:
    """The table of onnxruntime's releases."""
    contents = entries()
    types = [frozenset(line.split(" ")) for line in contents["types"]]

    def kernel(first: int, last: int, since: int, until: int | None, kinds: Mapping[str, int]) -> Kernel:
        return Kernel(first, last, since, until, {name: types[number] for name, number in kinds.items()})

    return Releases(
        tuple(contents["releases"]), tuple(contents["opset"]), tuple(contents["ir"]),
        {(d, op): tuple(kernel(*k) for k in ks) for d, ops in contents["kernels"].items() for op, ks in ops.items()},
        tuple(Limit(**limit) for limit in contents["limits"]),
    )  # fmt: skip
