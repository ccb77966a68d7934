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


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("presets").glob("*.toml"))}


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The entries of a recipe; relative paths among its ``options`` are made absolute.

    Args:
        name: TOML or YAML file, or the name of a recipe that comes with the package

    Raises:
        RecipeError: the file is missing, or not well-formed.

    >>> read_recipe("q4-mixed")["format"]
    'q4_0'
    """
    presets = shipped()
    path = presets.get(str(name), Path(name))
    if not path.exists():
        hint = nearest(str(path), list(presets))
        raise RecipeError(f"{path}: cannot be read: there is no such file, nor a recipe of that name{hint}")
    entries = read_table(path)
    if isinstance(entries.get("options"), dict):
        entries["options"] = with_absolute_paths(entries["options"], path.parent, declared(Options))
    return entries


def read_table(path: Path) -> dict[str, Any]:
    """The table that a TOML or YAML file holds; the ending of its name decides which.

    Raises:
        RecipeError: the file is missing, or not well-formed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: cannot be read: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    try:
        entries = yaml.load(text, _Loader) if path.suffix in (".yaml", ".yml") else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not a recipe: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not a recipe: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise RecipeError(f"{path}: holds {type(entries).__name__}, expected a table of keys")
    return entries


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key which a table holds twice, as TOML does: one of the two values would be lost."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and names.count(key.value) > 1:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
        return node


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
