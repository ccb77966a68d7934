"""Reader of the TOML and YAML files that hold recipes, options and preprocessings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from onnxquant.errors import RecipeError, nearest
from onnxquant.recipe.declaration import Option, declared
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import rule_schema

# Far more than any recipe holds; a YAML file of this size takes seconds to read.
_MAX_TOML, _MAX_YAML = 16 << 20, 1 << 20
_MAX_VALUES = 100_000
_MAX_DIGITS, _MAX_BITS = 100, 64


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("presets").glob("*.toml"))}


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The entries of a recipe; relative paths among its ``options`` are made absolute.

    Args:
        name: TOML or YAML file, or the name of a recipe that comes with the package

    Raises:
        RecipeError: the file is missing, not well-formed, or has an option of the file among the keys of rules.

    >>> read_recipe("q4-mixed")["format"]
    'q4_0'
    """
    presets = shipped()
    path = presets.get(str(name), Path(name))
    if not path.exists():
        hint = nearest(str(path), list(presets))
        raise RecipeError(f"{path}: cannot be read: there is no such file, nor a recipe of that name{hint}")
    entries = read_table(path)
    options = declared(Options).keys() - rule_schema()["properties"].keys() - {"options", "rules"}
    if misplaced := next((name for name in entries if name in options), None):
        raise RecipeError(f"{path}: {misplaced!r} is an option of the whole file, no part of a rule; put it under 'options'")
    if isinstance(entries.get("options"), dict):
        entries["options"] = with_absolute_paths(entries["options"], path.parent, declared(Options))
    return entries


def is_yaml(path: Path) -> bool:
    """Whether the ending of a file's name says that it is YAML; other files are TOML."""
    return path.suffix in (".yaml", ".yml")


def read_table(path: Path) -> dict[str, Any]:
    """The table that a TOML or YAML file holds; the ending of its name decides which.

    Raises:
        RecipeError: the file is missing, or not well-formed.
    """
    limit = _MAX_YAML if is_yaml(path) else _MAX_TOML
    try:
        if path.stat().st_size > limit:
            raise RecipeError(f"{path}: not a recipe: {path.stat().st_size} bytes, expected at most {limit}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: cannot be read: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    try:
        entries = yaml.load(text, _Loader) if is_yaml(path) else _toml(text)
        _check_integers(entries)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not a recipe: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise RecipeError(f"{path}: holds {type(entries).__name__}, expected a table of keys")
    return entries


class _Loader(yaml.SafeLoader):
    """A loader of YAML that refuses what TOML has no way to write.

    These are a key that a table holds twice, of which one value would be lost; aliases that repeat more than a file can
    hold, or that are parts of themselves; and whole numbers of more digits than any option takes.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in names:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            names.add(key.value)
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MAX_DIGITS:
            raise ValueError(f"a whole number of {len(node.value)} characters, expected at most {_MAX_DIGITS}")
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _count(node: yaml.Node, counts: dict[yaml.Node, int | None]) -> int:
    """Number of values in a node, those of aliases included each time.

    Args:
        node: the node
        counts: numbers of the nodes so far; None: a node that holds this one
    """
    if node not in counts:
        counts[node] = None
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counts[node] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_count(part, counts) for part in parts))
    count = counts[node]
    if count is None:
        raise ValueError("an alias stands for something that holds it")
    if count > _MAX_VALUES:
        raise ValueError(f"its aliases repeat more than {_MAX_VALUES} values")
    return count


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit
        raise ValueError(f"a whole number of more digits than the {_MAX_DIGITS} that any option takes") from None


def _check_integers(value: object) -> None:
    """Refuse whole numbers that no option takes; messages would show all their digits."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ValueError(f"a whole number of {value.bit_length()} bits, expected at most {_MAX_BITS}")
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        _check_integers(part)


def with_absolute_paths(entries: Mapping[str, Any], folder: Path, options: Mapping[str, Option]) -> dict[str, Any]:
    """Make relative paths in the entries of a file absolute, with the folder of the file as their base.

    >>> with_absolute_paths({"work": "solved", "report": ".html", "seed": 1}, Path("/models"), declared(Options))
    {'work': '/models/solved', 'report': '.html', 'seed': 1}
    """
    return {name: _absolute(value, folder, options.get(name)) for name, value in entries.items()}


def _absolute(value: object, folder: Path, option: Option | None) -> object:
    is_path = option.declared.is_path if option else None
    if is_path is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_absolute(item, folder, option) for item in value]
    return str(folder / value) if isinstance(value, str) and is_path(value) else value
