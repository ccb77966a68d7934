"""What the user wants: an ordered list of rules, strict to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Self

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats import format_named, parameters
from onnxquant.formats.base import Format
from onnxquant.graph.sites import Site
from onnxquant.recipe import schema
from onnxquant.recipe.values import COMPUTE
from onnxquant.solvers import solver_named
from onnxquant.targets import AUTO, target_named

DEFAULT_FORMAT = "int8"
_OF_BITS = {8: "int8", 4: "int4", 2: "int2"}


def _key(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Rule:
    """Which sites, and what becomes of them. The first rule that matches a site decides it.

    Fields with a help text are the keys of a rule in a recipe. ``parameters`` are those of the format; in a recipe they
    are keys beside the others.
    """

    include: tuple[str, ...] = _key(
        (), "Regular expressions; one must be found in the weight's name or a consuming node's."
    )
    exclude: tuple[str, ...] = _key(
        (), "Regular expressions; none may be found in the weight's name or a consuming node's."
    )
    role: str | None = _key(None, "Only weights of this role: matmul, gemm, conv, gather, recurrent ...")
    op: tuple[str, ...] = _key((), "Only weights that a node of such a type consumes: Conv, MatMul, Gather, LSTM ...")
    min_elements: int | None = _key(None, "Only weights of at least so many elements.")
    max_elements: int | None = _key(None, "Only weights of at most so many elements.")
    keep: bool = _key(False, "Leave the weights in float.")
    format: str | None = _key(None, "Name of the format; `onnxquant list` shows all.")
    bits: int | None = _key(None, "Short form of format: 8, 4 or 2 for int8, int4, int2.")
    target: str = _key(AUTO, "onnx, ort, custom or auto.")
    solver: str = _key(AUTO, "How codes are chosen: rtn, mse, gptq ... or auto.")
    compute: str = _key(AUTO, "auto, or float: weights are decoded at load, so that products round no activations.")
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names, bits and expressions.

        Raises:
            RecipeError: with what was found and what was expected.
        """
        for field_name in ("include", "exclude", "op"):
            value = getattr(self, field_name)
            object.__setattr__(self, field_name, (value,) if isinstance(value, str) else tuple(value or ()))
        for field_name in ("include", "exclude"):
            for pattern in getattr(self, field_name):
                if not isinstance(pattern, str):
                    raise RecipeError(f"{field_name} holds {pattern!r}, expected regular expressions")
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise RecipeError(f"{field_name} {pattern!r} is not a regular expression: {error}") from None
        if self.bits is not None and self.bits not in _OF_BITS:
            raise RecipeError(f"bits {self.bits}: expected one of {', '.join(map(str, _OF_BITS))}")
        if self.bits is not None and self.format not in (None, _OF_BITS[self.bits]):
            raise RecipeError(f"bits {self.bits} means format {_OF_BITS[self.bits]!r}, but format is {self.format!r}")
        if self.compute not in COMPUTE:
            raise RecipeError(f"compute is {self.compute!r}, expected one of {', '.join(COMPUTE)}")
        if self.target != AUTO:
            target_named(self.target)
        if self.solver != AUTO and (refusal := solver_named(self.solver).refusal(self.make_format())):
            raise RecipeError(f"solver {self.solver}: {refusal}")
        self.make_format()

    def to_dict(self) -> dict[str, Any]:
        """The keys that are not the defaults; the same as a recipe would have them."""
        given = {
            f.name: getattr(self, f.name) for f in fields(self) if f.metadata and getattr(self, f.name) != f.default
        }
        return {**{k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}, **self.parameters}

    def make_format(self) -> Format:
        """The format with its parameters.

        Raises:
            RecipeError: unknown format, or a parameter that it does not have.
        """
        name = self.format or _OF_BITS.get(self.bits or 8, DEFAULT_FORMAT)
        return format_named(name, **self.parameters)

    def matches(self, site: Site) -> bool:
        """Whether the rule speaks of a site."""
        if self.role is not None and self.role not in site.role.split("+"):
            return False
        if self.op and not any(use.node.op_type in self.op for use in site.uses):
            return False
        if site.elements < (self.min_elements or 0):
            return False
        if self.max_elements is not None and site.elements > self.max_elements:
            return False
        names = [site.name, *(use.node.name for use in site.uses)]
        if self.include and not any(re.search(p, n) for p in self.include for n in names):
            return False
        return not any(re.search(p, n) for p in self.exclude for n in names)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], where: str) -> Self:
        """A rule from a mapping of its fields.

        Raises:
            RecipeError: an unknown key (the nearest is named) or a value of the wrong type.
        """
        schema.check(entries, rule_schema(), where)
        of_format = parameters()
        own = {k: v for k, v in entries.items() if k not in of_format}
        return cls(**own, parameters={k: v for k, v in entries.items() if k in of_format})


@cache
def rule_schema() -> schema.Schema:
    """What a rule in a recipe may hold, as JSON Schema."""
    of_format = {name: schema.of_parameter(p) for name, p in parameters().items()}
    return schema.table({**schema.of_class(Rule), **of_format}, "A rule: the first that matches a weight decides it.")


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules.

    >>> Recipe.from_dict({"format": "int4", "rules": [{"include": "embed", "format": "int8"}]}).rules[0].format
    'int8'
    """

    rules: tuple[Rule, ...]

    def to_list(self) -> list[dict[str, Any]]:
        """The rules as plain data, each with its format and without what is at its default."""
        return [
            {f.name: v for f in fields(r) if (v := getattr(r, f.name)) not in (None, (), {}, False, AUTO)}
            | ({} if r.keep else {"format": r.make_format().name})
            for r in self.rules
        ]

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], where: str = "recipe") -> Self:
        """A recipe: ``rules`` in order, then the other keys, but for ``options``, as one last rule for every site left.

        Raises:
            RecipeError: unknown keys or bad values, with the place.
        """
        rest = {k: v for k, v in entries.items() if k not in ("rules", "options")}
        listed = entries.get("rules", [])
        if not isinstance(listed, list) or not all(isinstance(r, dict) for r in listed):
            raise RecipeError(f"{where}: rules is {listed!r}, expected a list of tables")
        known = ["rules", "options", *rule_schema()["properties"]]
        if unknown := [k for k in rest if k not in known]:
            raise RecipeError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
        rules = [Rule.from_dict(r, f"{where}, rule {i + 1}") for i, r in enumerate(listed)]
        return cls((*rules, Rule.from_dict(rest, where)))
