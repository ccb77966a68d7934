"""Clients by name, out of ``clients.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from onnxquant.clients.releases import releases
from onnxquant.errors import RecipeError, nearest

# The prefix of clients that are releases of onnxruntime.
_RELEASE = "onnxruntime-"


class Source(StrEnum):
    """The origin of an entry: the client was run, or its documentation read."""

    RUN = "run"
    DOCUMENTATION = "documentation"


@dataclass(frozen=True, kw_only=True)
class Slow:
    """A form that a client runs slower than floats.

    Attributes:
        operators: names of the operators.
        reason: explanation, for people.
        bits: value of its attribute ``bits`` that is slow; 0: any.
        from_block: blocks of this many weights and more are slow; 0: any, also where there are no blocks.
        before: release of onnxruntime from which on it is not slow; empty: it is on each.
        codes: bits of the codes that its first two inputs are decoded from, 0 for an input that is not; empty: any.
        element_type: element type of an input or output; empty: any.
        with_float_bias: whether nodes with a bias that is not decoded from codes alone are slow.
        with_unpacking: whether nodes whose bytes are taken apart into codes are slow.
        below_rows: products of fewer rows are slow; 0: any.
        below_inputs: products and convolutions of which each output is the sum of fewer are slow; 0: any.
        below_work: products of fewer multiplications are slow; 0: any.
        is_only_said: whether it decides nothing: a network of which some kernels are slow may be faster as a whole.
    """

    operators: tuple[str, ...]
    reason: str
    bits: int = 0
    from_block: int = 0
    before: str = ""
    codes: tuple[int, ...] = ()
    element_type: str = ""
    with_float_bias: bool = False
    with_unpacking: bool = False
    below_rows: int = 0
    below_inputs: int = 0
    below_work: int = 0
    is_only_said: bool = False

    @property
    def depends_on_size(self) -> bool:
        """Whether nodes of some sizes alone are slow."""
        return bool(self.below_rows or self.below_inputs or self.below_work)


@dataclass(frozen=True, kw_only=True)
class Client:
    """A program that runs files.

    Attributes:
        name: its name.
        summary: short description.
        release: release of onnxruntime whose kernels it has.
        source: origin of this entry.
        version: version that was run, or that the documentation is of.
        date: date of that.
        lacks: operators that the release has and this client has not: ``Op``, ``domain::Op``, or ``Op of TYPE`` where it
            lacks those alone whose first input has that element type.
        once: operators, in the words of ``lacks``, of which it takes a single node in a file.
        functions: whether it computes the bodies of model-local functions.
        domains: domains whose operators it has; empty: all of the release.
        types: element types that it cannot hold.
        slow: forms that it runs slower than floats.
        max_bytes: size of the largest file; 0: no limit.
        data_suffix: ending of the name of data files, behind the model's.
        saturates: whether it may cut off sums of two products of 8-bit codes at 16 bits.
        options: options of ``quantize`` that suit it, where nothing else is named and they have an effect.
    """

    name: str
    summary: str
    release: str
    source: Source
    version: str
    date: str
    lacks: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    functions: bool = True
    domains: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    slow: tuple[Slow, ...] = ()
    max_bytes: int = 0
    data_suffix: str = ""
    saturates: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def origin(self) -> str:
        """The origin of what is known of it, in words: ``run, 1.32.0, 2026-11-29``."""
        return f"{self.source}, {self.version}, {self.date}"

    @property
    def opset(self) -> int:
        """The highest opset that it knows."""
        return releases().opsets[self.place]

    @property
    def place(self) -> int:
        """Place of its release in the tables."""
        return releases().place(self.release)


@cache
def clients() -> dict[str, Client]:
    """Clients by name, in the order of lists; releases of onnxruntime are among them, newest first."""
    entries = tomllib.loads(resources.files(__package__).joinpath("clients.toml").read_text())
    common = tuple(map(_slow, entries.pop("slow")))
    by_name: dict[str, Client] = {}
    for name, entry in entries.items():
        slow = (*common, *map(_slow, entry.pop("slow", ())))
        options = tuple(entry.pop("options", {}).items())
        lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
        fields = {**entry, **lists, "source": Source(entry["source"])}
        by_name[name] = Client(name=name, slow=slow, options=options, **fields)
    newest = by_name["onnxruntime"]
    for release in reversed(releases().names):
        minor = release.rpartition(".")[0]
        by_name[f"{_RELEASE}{minor}"] = Client(
            name=f"{_RELEASE}{minor}", summary=f"onnxruntime {minor} on CPUs", release=release, source=Source.RUN,
            version=release, date=newest.date, slow=newest.slow,
        )  # fmt: skip
    return by_name


def _slow(entry: dict[str, Any]) -> Slow:
    return Slow(**{**entry, "operators": tuple(entry["operators"]), "codes": tuple(entry.get("codes", ()))})


def release_clients() -> list[Client]:
    """The releases of onnxruntime on CPUs, oldest first."""
    return [clients()[f"{_RELEASE}{name.rpartition('.')[0]}"] for name in releases().names]


def client_named(name: str) -> Client:
    """A client by name; releases of onnxruntime may be given with their last number.

    Raises:
        RecipeError: no such client; the nearest is named.
    """
    known = clients()
    minor = name.rpartition(".")[0] if name.startswith(_RELEASE) and name.count(".") == 2 else name
    if minor not in known:
        raise RecipeError(f"unknown client {name!r}{nearest(name, list(known))}; `onnxquant list clients` shows all")
    return known[minor]
