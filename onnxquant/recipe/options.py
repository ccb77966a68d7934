"""The options of ``quantize``. Keywords, command line, files, their schemas and the reference page are made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from onnxquant.clients import client_named
from onnxquant.errors import RecipeError, nearest
from onnxquant.formats.floats import F16
from onnxquant.graph.data_files import DataFiles, named_like
from onnxquant.graph.io import Document
from onnxquant.recipe import combinations, schema
from onnxquant.recipe.declaration import Scope, declared, format_options, options_of
from onnxquant.recipe.fields import OptionFields
from onnxquant.recipe.naming import with_goal
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import (
    Drop,
    ExternalData,
    seconds_of,
)
from onnxquant.targets import AUTO, Activations

# Above this size, tensors go to a file of their own, from which sessions map them.
INLINE_BYTES = 100 << 20


@dataclass(frozen=True, kw_only=True)
class Options(OptionFields):
    """Options of ``quantize``, checked, and what follows from them."""

    @classmethod
    def make(cls, keywords: Mapping[str, Any]) -> Self:
        """Options from keywords; None stands for the default.

        Raises:
            RecipeError: an unknown keyword (the nearest is named), a value of the wrong type, or values that do not go
                together.
        """
        values = plain_keywords(keywords)
        parameters = {k: values.pop(k) for k in format_options() if k in values}
        options = cls(**values, parameters=parameters)
        options.check()
        return options

    @classmethod
    def of_recipe(
        cls, entries: Mapping[str, Any] | None, keywords: Mapping[str, Any], *, has_samples: bool = False
    ) -> tuple[Self, Recipe]:
        """Options and rules of a recipe's entries and of keywords, which win.

        Args:
            entries: entries of the recipe
            keywords: options of the user
            has_samples: whether there are samples by which the way can be chosen, where none is named

        Raises:
            RecipeError: an unknown key, a value of the wrong type, or a goal where the way is named.
        """
        table = (entries or {}).get("options", {})
        schema.check(table, option_schema(), "recipe: options")
        stronger = with_goal(entries, plain_keywords(keywords), has_samples=has_samples)
        named = {**drop_overridden_aliases(table, stronger), **stronger}
        options = cls.make({**options_of_clients(named), **named})
        return options, options.recipe(entries)

    def check(self) -> None:
        """Refuse values that are not allowed, and options that do not go together.

        Raises:
            RecipeError: an option is refused; the message says what was expected.
        """
        for name, spec in declared(type(self)).items():
            spec.check(getattr(self, name))
        combinations.check(self)
        Drop.parse(self.max_drop)
        self.max_bytes()
        _bytes_of("data_limit", self.data_limit)
        self.seconds()
        if self.tune is not None:
            seconds_of(self.tune)
        self.dims()

    def max_bytes(self) -> int:
        """Number of bytes that ``max_size`` stands for; 0 without it.

        Raises:
            RecipeError: it is no size.

        >>> Options(max_size="1.5MB").max_bytes()
        1500000
        """
        return _bytes_of("max_size", self.max_size)

    def seconds(self) -> float | None:
        """Number of seconds that ``time`` stands for; None without it.

        Raises:
            RecipeError: it is no duration.
        """
        return None if self.time is None else seconds_of(self.time)

    def dims(self) -> dict[str, int]:
        """Lengths of named dimensions.

        Raises:
            RecipeError: an entry is not NAME=N with N > 0.
        """
        lengths = {}
        for entry in self.dim:
            name, _, value = entry.partition("=")
            if not name or not (value.isascii() and value.isdigit()) or int(value) < 1:
                raise RecipeError(f"dim {entry!r}: expected NAME=N with N > 0")
            lengths[name] = int(value)
        return lengths

    def data_files(self, original: Document, output: Path, *, nbytes: int = 0) -> DataFiles | None:
        """Data files that an output gets; None: its tensors go into the model.

        Args:
            original: the original
            output: the file to write
            nbytes: number of bytes of the weights

        Raises:
            RecipeError: a client looks for another name.
        """
        is_wanted = self.external_data == ExternalData.ALWAYS or self.data_name is not None
        if self.external_data == ExternalData.AUTO:
            is_wanted = is_wanted or original.is_external() or nbytes > INLINE_BYTES
        return self.data_names(original, output) if is_wanted else None

    def data_names(self, original: Document, output: Path) -> DataFiles:
        """Names of an output's data files, whether or not it gets any: the user's, a client's, or as the original's.

        Raises:
            RecipeError: the user's name is the model's, or a client looks for another.
        """
        clients = [client_named(name) for name in self.clients]
        limits = [_bytes_of("data_limit", self.data_limit), *(client.max_bytes for client in clients)]
        limit = min((n for n in limits if n), default=0)
        expected = next((client for client in clients if client.data_suffix), None)
        if self.data_name is not None:
            name = DataFiles.named(output, self.data_name).first
        elif expected is not None:
            name = output.name + expected.data_suffix
        else:
            name = named_like(original, output).first
        if expected is not None and name != (needed := output.name + expected.data_suffix):
            raise RecipeError(f"data_name is {self.data_name!r}: {expected.name} looks for {needed}; leave it out")
        return DataFiles(name, limit)

    def options_that_shape_the_file(self) -> dict[str, Any]:
        """Options that differ from their defaults and change the output, other than those that its rules hold."""
        # Without a search its bounds are only bounds of the proof.
        is_searching = self.searches or self.auto_exclude or self.goal is not None
        scopes = {Scope.FILE, Scope.SEARCH} if is_searching else {Scope.FILE}
        options = self._changed(scopes)
        if self.activations == Activations.STATIC and self.solver != AUTO:  # one solver for all weights
            options["solver"] = self.solver
        return options

    def options_that_shape_the_plan(self) -> dict[str, Any]:
        """Those that shape the file but for the ones of a search, whose result a plan is."""
        options = self.options_that_shape_the_file()
        return {k: v for k, v in options.items() if declared(type(self))[k].declared.scope is not Scope.SEARCH}

    def output_name(self, rules: Recipe, model: Path) -> str:
        """Name of the file that a model becomes: ``<name>.<goal>.onnx``, or by its format where no goal chooses."""
        name = rules.output_name(model) if self.goal is None else f"{model.stem}.{self.goal}.onnx"
        in_float16 = self.float16 and rules.last_format.name != F16.name
        return f"{name.removesuffix('.onnx')}.f16.onnx" if in_float16 else name

    def _changed(self, scopes: set[Scope]) -> dict[str, Any]:
        values = {}
        for name, spec in declared(type(self)).items():
            value = getattr(self, name)
            if spec.declared.scope in scopes and value not in (spec.default, ()):
                values[name] = list(value) if isinstance(value, tuple) else getattr(value, "__qualname__", value)
        return values

    def recipe(self, entries: Mapping[str, Any] | None) -> Recipe:
        """The rules of a recipe, then one of these options, which override the recipe's own defaults."""
        last = {**self._changed({Scope.RULE}), **self.parameters}
        if self.activations == Activations.STATIC:  # one solver for all weights, so no rule names it
            last.pop("solver", None)
        table = {**drop_overridden_aliases(entries or {}, last), **last}
        if (
            self.float16
            and self.activations == Activations.NONE
            and not {"format", "bits", *self.parameters} & table.keys()
        ):
            table["format"] = F16.name
        recipe = Recipe.from_dict(table)
        recipe = recipe.for_clients([client_named(name) for name in self.clients])
        return recipe.in_float16() if self.in_float16 else recipe


def plain_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of options but for None, each as a file would hold its value.

    Raises:
        RecipeError: an unknown keyword (the nearest is named), or a value of the wrong type.
    """
    known = options_of(Options)
    values = {}
    for name, value in keywords.items():
        if name not in known:
            raise RecipeError(f"unknown option {name!r}{nearest(name, list(known))}")
        if value is not None:
            values[name] = known[name].plain(value)
            known[name].check_type(values[name])
    return values


def _bytes_of(name: str, text: str | None) -> int:
    """Number of bytes that the size of an option stands for; 0 without it.

    Raises:
        RecipeError: it is no size.
    """
    if text is None:
        return 0
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:(?:([kKMG])(i?))?B)?\s*", text)
    if match is None or not float(match[1]):
        raise RecipeError(f"{name} is {text!r}, expected a size such as 30MB, 512kB or 1.5GiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("", "k", "m", "g").index((match[2] or "").lower()))


def options_of_clients(named: Mapping[str, Any]) -> dict[str, Any]:
    """Options that suit the clients of a file, those of the first winning, as far as they have an effect.

    Args:
        named: options that the user names.
    """
    clients = named.get("clients") or ()
    options: dict[str, Any] = {}
    for name in (clients,) if isinstance(clients, str) else clients:
        options = {**dict(client_named(name).options), **options}
    return {name: value for name, value in options.items() if combinations.has_effect(name, named)}


@cache
def option_schema() -> schema.Schema:
    """JSON Schema of a table of options in a file."""
    return schema.of_table(options_of(Options), "Options of quantize.")


def options_to_report(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords that differ from the defaults, but for those that say where to report."""
    known = options_of(Options)
    return {
        name: value
        for name, value in plain_keywords(keywords).items()
        if value != known[name].default and known[name].declared.is_reported
    }


def drop_overridden_aliases(entries: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Entries but for those that a stronger entry replaces: ``bits`` and ``format`` set the same thing.

    >>> drop_overridden_aliases({"bits": 4, "seed": 1}, {"format": "q4_0"})
    {'seed': 1}
    """
    pairs = [(name, spec.declared.alias_of) for name, spec in declared(Options).items() if spec.declared.alias_of]
    dropped = {one for pair in pairs for one, other in (pair, pair[::-1]) if other in stronger}
    return {k: v for k, v in entries.items() if k not in dropped}
