"""What the user wants: an ordered list of rules, strict to read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats import format_named, parameters
from onnxquant.formats.base import Format
from onnxquant.solvers import solver_named
from onnxquant.targets import AUTO, target_named

DEFAULT_FORMAT = "int8"
COMPUTE = (AUTO, "float")
_OF_BITS = {8: "int8", 4: "int4", 2: "int2"}


@dataclass(frozen=True)
class Rule:
    """Which sites, and what becomes of them. The first rule that matches a site decides it.

    Attributes:
        include: regular expressions; one must be found in the weight's name or a consuming node's. None: all.
        exclude: regular expressions; none may be found there.
        role: only sites of this role (matmul, gemm, conv, gather, recurrent ...).
        keep: leave the sites in float.
        format: name of the format; bits is its short form (8, 4, 2 for int8, int4, int2).
        target: onnx, ort, custom or auto.
        solver: how codes are chosen: rtn, mse, gptq ... or auto.
        compute: auto, or float: weights are decoded at load, so that products round no activations.
        parameters: of the format, by name; in a recipe they are keys beside the others.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    role: str | None = None
    keep: bool = False
    format: str | None = None
    bits: int | None = None
    target: str = AUTO
    solver: str = AUTO
    compute: str = AUTO
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names, bits and expressions.

        Raises:
            RecipeError: with what was found and what was expected.
        """
        for field_name in ("include", "exclude"):
            value = getattr(self, field_name)
            object.__setattr__(self, field_name, (value,) if isinstance(value, str) else tuple(value or ()))
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

    def make_format(self) -> Format:
        """The format with its parameters.

        Raises:
            RecipeError: unknown format, or a parameter that it does not have.
        """
        name = self.format or _OF_BITS.get(self.bits or 8, DEFAULT_FORMAT)
        return format_named(name, **self.parameters)

    def matches(self, role: str, names: Sequence[str]) -> bool:
        """Whether the rule speaks of a site with this role and these names."""
        if self.role is not None and self.role not in role.split("+"):
            return False
        if self.include and not any(re.search(p, n) for p in self.include for n in names):
            return False
        return not any(re.search(p, n) for p in self.exclude for n in names)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], where: str) -> Self:
        """A rule from a mapping of its fields.

        Raises:
            RecipeError: an unknown key (the nearest is named) or a value of the wrong type.
        """
        of_format = parameters()
        for key, value in entries.items():
            if key not in known_keys():
                raise RecipeError(f"{where}: unknown key {key!r}{nearest(key, known_keys())}")
            if key in of_format:
                if mistake := of_format[key].mistake(value):
                    raise RecipeError(f"{where}: {mistake}")
                continue
            expected = _TYPES[key]
            if not isinstance(value, expected) or (isinstance(value, bool) and bool not in _as_tuple(expected)):
                names = " or ".join(t.__name__ for t in _as_tuple(expected))
                raise RecipeError(f"{where}: {key} is {value!r}, expected {names}")
        own = {k: v for k, v in entries.items() if k not in of_format}
        return cls(**own, parameters={k: v for k, v in entries.items() if k in of_format})


def known_keys() -> list[str]:
    """Keys of a rule in a recipe."""
    return [*_TYPES, *parameters()]


_TYPES: dict[str, type | tuple[type, ...]] = {
    "include": (str, list, tuple),
    "exclude": (str, list, tuple),
    "role": str,
    "keep": bool,
    "format": str,
    "bits": int,
    "target": str,
    "solver": str,
    "compute": str,
}


def _as_tuple(types: type | tuple[type, ...]) -> tuple[type, ...]:
    return types if isinstance(types, tuple) else (types,)


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.toml"))}


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
        """A recipe: ``rules`` in order, then the other keys as one last rule for every site left.

        Raises:
            RecipeError: unknown keys or bad values, with the place.
        """
        rest = {k: v for k, v in entries.items() if k != "rules"}
        listed = entries.get("rules", [])
        if not isinstance(listed, list) or not all(isinstance(r, dict) for r in listed):
            raise RecipeError(f"{where}: rules is {listed!r}, expected a list of tables")
        if unknown := [k for k in rest if k not in known_keys()]:
            raise RecipeError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], ['rules', *known_keys()])}")
        rules = [Rule.from_dict(r, f"{where}, rule {i + 1}") for i, r in enumerate(listed)]
        return cls((*rules, Rule.from_dict(rest, where)))

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """The entries of a TOML or YAML file (its ending decides), or of a recipe that comes with the package, by its name.

        Raises:
            RecipeError: missing, or not well-formed.

        >>> Recipe.read("q4-mixed")["format"]
        'q4_0'
        """
        path = shipped().get(str(path), Path(path))
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            hint = nearest(str(path), list(shipped()))
            raise RecipeError(
                f"{path}: cannot be read: there is no such file, nor a recipe of that name{hint}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from None
        try:
            if path.suffix in (".yaml", ".yml"):
                import yaml

                entries = yaml.safe_load(text)
            else:
                entries = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, ValueError) as error:
            raise RecipeError(f"{path}: not a recipe: {error}") from None
        except Exception as error:
            if type(error).__module__.startswith("yaml"):
                raise RecipeError(f"{path}: not a recipe: {' '.join(str(error).split())}") from None
            raise
        if not isinstance(entries, dict):
            raise RecipeError(f"{path}: holds {type(entries).__name__}, expected a table of keys")
        return entries
