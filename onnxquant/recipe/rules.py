"""Rules, which decide the weights that they match, and recipes, ordered lists of rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from onnxquant.clients import Client
from onnxquant.errors import RecipeError, nearest
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.graph.sites import MIN_ELEMENTS, Site
from onnxquant.observers.clip import Clip, clipping_methods
from onnxquant.pruning.amounts import Amount
from onnxquant.recipe import schema
from onnxquant.recipe.declaration import Scope, declared, format_options, key, option, options_of
from onnxquant.recipe.values import FORMAT_OF_BITS, Compute, format_names, solver_names, target_names
from onnxquant.solvers import solver_named
from onnxquant.targets import AUTO

DEFAULT_FORMAT = "int8"


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """Options that a rule may set for the weights that it matches; each is a field with its declaration.

    Attributes:
        parameters: parameters of the format by name; elsewhere they are keywords, keys and flags beside the others
    """

    format: str | None = option(
        None, "Format of the weights; `onnxquant list` shows all. [default: int8]", Scope.RULE,
        metavar="NAME", choices=format_names,
    )  # fmt: skip
    bits: int | None = option(
        None, "Short form of --format: 4 for int4, and so on. With 4 and fewer, weights outside of MatMul that add at "
        "most 5 % to the file have 8 bits.", Scope.RULE,
        choices=tuple(FORMAT_OF_BITS), alias_of="format", short="-b",
    )  # fmt: skip
    parameters: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] = option(
        (), "Regular expression. Only weights whose name, or the name of a node that consumes them, contains a match.",
        Scope.RULE, metavar="REGEX",
    )  # fmt: skip
    exclude: tuple[str, ...] = option(
        (), "Regular expression. No weights whose name, or the name of a node that consumes them, contains a match.",
        Scope.RULE, metavar="REGEX",
    )  # fmt: skip
    target: str = option(
        AUTO, "Operators that encoded weights become: standard ones (onnx), those of onnxruntime (ort), or ours (custom). "
        "auto chooses for each weight.", Scope.RULE, choices=target_names,
    )  # fmt: skip
    solver: str = option(
        AUTO, "Method that chooses the codes of a weight; `onnxquant list` shows all. auto: gptq where --data shows the "
        "inputs of a weight and its codes have fewer than 8 bits, or where it is better beside static activations; "
        "otherwise rtn.", Scope.RULE, choices=solver_names,
    )  # fmt: skip
    clip: str | None = option(
        None, "Clip weights before they are rounded, to the range that a calibration method chooses from their values: "
        "percentile=99.9, mean-std=3, entropy, mse.", Scope.RULE, metavar="METHOD[=X]", completion=clipping_methods,
    )  # fmt: skip
    prune: str | float | None = option(
        None, "Prune before quantizing: 0.5 makes the half of the weights zero that counts least, 2:4 two of each four "
        "inputs, channels=0.3 removes channels from the graph. Zeros stay zeros; --format f32 prunes alone.", Scope.RULE,
        metavar="0.5|2:4|channels=0.3",
    )  # fmt: skip
    compute: str = option(
        Compute.AUTO.value,
        "Arithmetic of products with encoded weights. auto: the fastest kernels, most of which round activations to 8 "
        "bits. float: weights are decoded when the model is loaded, so that products lose nothing more; they have the "
        "speed and memory of float.", Scope.RULE, choices=tuple(Compute),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rule(RuleOptions):
    """The weights that a rule matches, and the options that it sets for them. The first match decides a weight."""

    role: str | None = key(None, "Only weights of this role: matmul, gemm, conv, gather, recurrent ...")
    op: tuple[str, ...] = key((), "Only weights that a node of this type consumes: Conv, MatMul, Gather, LSTM ...")
    min_elements: int | None = key(None, "Only weights with at least this many elements. [default: 256]")
    max_elements: int | None = key(None, "Only weights with at most this many elements.")
    optional: bool = key(False, "Nothing is said where the rule matches no weight.")
    keep: bool = key(False, "Leave the weights in float.")
    float_activations: bool = key(
        False, "With integer activations: what reads the weights computes in float; they are stored as the rule says."
    )
    dynamic_activations: bool = key(
        False, "Beside static activations: products with the weights round their activations on every call. Beside dynamic "
        "ones: LSTMs with the weights do, whether they are faster so or not.",
    )
    clients: tuple[Client, ...] = ()
    """Clients that the file is for: an option of the whole file, which every rule keeps."""
    float16: bool = False
    """Whether the file computes in float16: another such option."""

    def __post_init__(self) -> None:
        """Check values and their combinations.

        Raises:
            RecipeError: a value is refused; the message says what was expected.
        """
        for name, spec in declared(type(self)).items():
            value = getattr(self, name)
            if spec.is_list:
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value or ()))
            spec.check(value)
        self._check_expressions()
        self._check_bits()
        if self.prune is not None:
            Amount.parse(self.prune)
        if self.float_activations and self.dynamic_activations:
            raise RecipeError("float_activations and dynamic_activations exclude each other")
        if self.solver != AUTO and (refusal := solver_named(self.solver).refusal(self.make_format())):
            raise RecipeError(f"solver {self.solver}: {refusal}")
        self._check_clip(self.make_format())

    def _check_clip(self, form: Format) -> None:
        if self.clip is None:
            return
        if self.keep:
            raise RecipeError("clip: has no effect on weights that keep leaves in float")
        if refusal := Clip.parse(self.clip).refusal(form):
            raise RecipeError(f"clip {self.clip!r}: {refusal}")

    def _check_expressions(self) -> None:
        for name in ("include", "exclude"):
            for pattern in getattr(self, name):
                if not isinstance(pattern, str):
                    raise RecipeError(f"{name} holds {pattern!r}, expected regular expressions")
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise RecipeError(f"{name} {pattern!r} is not a regular expression: {error}") from None

    def _check_bits(self) -> None:
        if self.bits is not None and self.format not in (None, FORMAT_OF_BITS[self.bits]):
            raise RecipeError(
                f"bits {self.bits} means format {FORMAT_OF_BITS[self.bits]!r}, but format is {self.format!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Keys and values that differ from the defaults, as a recipe holds them."""
        values = {name: getattr(self, name) for name in declared(type(self))}
        changed = {k: v for k, v in values.items() if v != declared(type(self))[k].default}
        return {**{k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}, **self.parameters}

    def make_format(self) -> Format:
        """The format with its parameters.

        Raises:
            RecipeError: unknown format, or a parameter that it does not have.
        """
        name = self.format or FORMAT_OF_BITS.get(self.bits or 8, DEFAULT_FORMAT)
        return format_named(name, **self.parameters)

    def matches(self, site: Site) -> bool:
        """Whether the rule applies to a site."""
        if self.role is not None and self.role not in site.role.split("+"):
            return False
        if self.op and not any(use.node.op_type in self.op for use in site.uses):
            return False
        if site.elements < (MIN_ELEMENTS if self.min_elements is None else self.min_elements):
            return False
        if self.max_elements is not None and site.elements > self.max_elements:
            return False
        names = names_of(site)
        if self.include and not any(re.search(p, n) for p in self.include for n in names):
            return False
        return not any(re.search(p, n) for p in self.exclude for n in names)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], where: str) -> Self:
        """A rule from a mapping of its keys.

        Args:
            entries: keys and values
            where: beginning of messages: the place of the rule

        Raises:
            RecipeError: an unknown key (the nearest is named) or a value of the wrong type.
        """
        schema.check(entries, rule_schema(), where)
        own = {k: v for k, v in entries.items() if k not in format_options()}
        return cls(**own, parameters={k: v for k, v in entries.items() if k in format_options()})


def names_of(site: Site) -> list[str]:
    """The names that rules match: those of the weight and of the nodes that use it."""
    return [site.name, *(use.node.name for use in site.uses)]


@cache
def rule_schema() -> schema.Schema:
    """JSON Schema of a rule in a recipe."""
    return schema.of_table(options_of(Rule), "A rule. The first one that matches a weight decides what becomes of it.")


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules; the last one matches every weight that no other rule matches.

    >>> Recipe.from_dict({"format": "int4", "rules": [{"include": "embed", "format": "int8"}]}).rules[0].format
    'int8'
    """

    rules: tuple[Rule, ...]

    @property
    def last_format(self) -> Format:
        """Format of the weights that no other rule matches."""
        return self.rules[-1].make_format()

    @property
    def clients(self) -> tuple[Client, ...]:
        """Clients that the file is for."""
        return self.rules[-1].clients

    def for_clients(self, clients: Sequence[Client]) -> Self:
        """The recipe for a file that some clients are to run."""
        return replace(self, rules=tuple(replace(rule, clients=tuple(clients)) for rule in self.rules))

    def in_float16(self) -> Self:
        """The recipe for a file that computes in float16 what is not on integers."""
        return replace(self, rules=tuple(replace(rule, float16=True) for rule in self.rules))

    def output_name(self, model: Path) -> str:
        """Name of the file that a model becomes: ``<name>.<format>.onnx``."""
        return f"{model.stem}.{self.last_format.name}.onnx"

    def to_list(self) -> list[dict[str, Any]]:
        """The rules as plain data, each with its format and without defaults."""
        rules = []
        for rule in self.rules:
            values = {name: getattr(rule, name) for name in (*declared(Rule), "parameters")}
            entries = {k: v for k, v in values.items() if v not in (None, (), {}, False, AUTO)}
            rules.append(entries if rule.keep else {**entries, "format": rule.make_format().name})
        return rules

    @property
    def least_elements(self) -> int | None:
        """Size of the smallest weight that a rule asks for; None: no smaller one than usual."""
        sizes = [rule.min_elements for rule in self.rules if rule.min_elements is not None and not rule.keep]
        return min(sizes) if sizes and min(sizes) < MIN_ELEMENTS else None

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], where: str = "recipe") -> Self:
        """The recipe of ``rules`` in order, then the other keys but for ``options`` as one last rule for all other weights.

        Raises:
            RecipeError: unknown keys or bad values, with the place.
        """
        last = {k: v for k, v in entries.items() if k not in ("rules", "options")}
        rules = entries.get("rules", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise RecipeError(f"{where}: rules is {rules!r}, expected a list of tables")
        known = ["rules", "options", *rule_schema()["properties"]]
        if unknown := [name for name in last if name not in known]:
            raise RecipeError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
        listed = [Rule.from_dict(rule, f"{where}, rule {i + 1}") for i, rule in enumerate(rules)]
        return cls((*listed, Rule.from_dict(last, where)))
