"""Facts that a decoder folder gives about its graph: names of inputs and outputs, sizes, and the tokens that end a text.

``genai_config.json`` says it where there is one, as onnxruntime-genai reads it. A folder without one has ``model.onnx`` with
the names that Optimum gives, and ``config.json`` beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from onnxquant.errors import ModelError, shown
from onnxquant.graph.io import outlined
from onnxquant.json_data import JsonValue
from onnxquant.language.folder_names import (
    CONFIG,
    GENAI,
    GENERATION,
    INPUTS,
    MODEL,
    OUTPUTS,
    PAST,
)

_REMEDY = " (onnxquant convert makes one from a GGUF file or a folder of Hugging Face)"
_PAST_KEY = re.compile(re.escape(PAST["key"]).replace("%d", r"(\d+)"))
# Layers beyond this are damage.
_DEEPEST = 1 << 12


@dataclass(frozen=True)
class CachePart:
    """The keys or the values of one layer: the input that holds those of the past, and the output with all of them."""

    past: str
    present: str


@dataclass(frozen=True)
class DecoderConfig:
    """Facts of a decoder.

    Attributes:
        model: file of the graph.
        source: the file that the facts are from; where there is none, the graph.
        names: names of inputs and outputs by their use: ``input_ids``, ``attention_mask``, ``position_ids``, ``logits``.
        named: uses whose names the configuration itself gives, so that the graph must have them.
        cache: keys and values of each layer.
        kv_heads: number of heads of keys and values; None: the graph says it.
        head_dim: channels of a head; None: the graph says it.
        vocabulary: number of tokens; None: the graph says it.
        context_length: largest number of tokens of a text and its prompt; None: not known.
        eos: tokens that end a text.
    """

    model: Path
    source: Path
    names: dict[str, str]
    named: frozenset[str]
    cache: tuple[CachePart, ...]
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    context_length: int | None = None
    eos: tuple[int, ...] = ()


def is_decoder_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a graph or a configuration of onnxruntime-genai."""
    folder = Path(path)
    return (folder / GENAI).is_file() or (folder / MODEL).is_file()


def read_config(folder: Path) -> DecoderConfig:
    """The facts of a decoder folder.

    Raises:
        ModelError: a file is missing, or a field is missing or wrong.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: is no folder; expected a decoder folder, with {GENAI} or {MODEL}{_REMEDY}")
    if (folder / GENAI).is_file():
        return _genai(folder)
    return _plain(folder)


class _Fields:
    """A JSON object in a file, whose fields are read by their types."""

    def __init__(self, path: Path, data: JsonValue, prefix: str = "") -> None:
        if not isinstance(data, dict):
            raise ModelError(f"{path}: {prefix.rstrip('.') or 'the file'} is {shown(data)}, expected an object")
        self._path, self._data, self._prefix = path, data, prefix

    def part(self, key: str) -> _Fields:
        """An object in the object; an empty one where it is missing."""
        return _Fields(self._path, self._data.get(key, {}), f"{self._prefix}{key}.")

    def has(self, key: str) -> bool:
        """Whether there is a field."""
        return self._data.get(key) is not None

    def text(self, key: str, default: str) -> str:
        """A text that is not empty.

        Raises:
            ModelError: it is something else.
        """
        value = self._data.get(key, default)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a name")
        return value

    def count(self, key: str) -> int | None:
        """A positive number; None where it is missing.

        Raises:
            ModelError: it is something else.
        """
        value = self._data.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise self._wrong(key, "a positive number")
        return value

    def needed(self, key: str) -> int:
        """A positive number.

        Raises:
            ModelError: it is missing, or something else.
        """
        value = self.count(key)
        if value is None:
            raise self._wrong(key, "a positive number")
        return value

    def tokens(self, key: str) -> tuple[int, ...]:
        """A token or several ones; none where the field is missing.

        Raises:
            ModelError: it is something else.
        """
        value = self._data.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(token) is not int or token < 0 for token in values):
            raise self._wrong(key, "a token or a list of tokens")
        return tuple(cast(list[int], values))

    def _wrong(self, key: str, expected: str) -> ModelError:
        place = f"{self._path}: {self._prefix}{key}"
        return ModelError(
            f"{place} is {shown(self._data[key])}, expected {expected}"
            if key in self._data
            else f"{place} is missing, expected {expected}"
        )


def _genai(folder: Path) -> DecoderConfig:
    """The facts that genai_config.json gives."""
    path = folder / GENAI
    model = _Fields(path, read_json(path)).part("model")
    decoder = model.part("decoder")
    fields = {**dict.fromkeys(INPUTS, decoder.part("inputs")), **dict.fromkeys(OUTPUTS, decoder.part("outputs"))}
    names = {use: fields[use].text(use, usual) for use, usual in {**INPUTS, **OUTPUTS}.items()}
    patterns = {use: name for use, name in names.items() if use.endswith("_names")}
    if wrong := next((use for use, name in patterns.items() if name.count("%d") != 1), None):
        raise ModelError(
            f"{path}: {wrong} is {names[wrong]!r}, expected a name with one %d for the number of the layer"
        )
    file = folder / decoder.text("filename", MODEL)
    if not file.is_file():
        raise ModelError(f"{file}: is missing, though {path} names it: model.decoder.filename")
    return DecoderConfig(
        model=file,
        source=path,
        names={use: name for use, name in names.items() if use not in patterns},
        named=frozenset(use for use, name in names.items() if fields[use].has(use)),
        cache=_cache(patterns, range(_depth(path, decoder.needed("num_hidden_layers")))),
        kv_heads=decoder.count("num_key_value_heads"),
        head_dim=decoder.count("head_size"),
        vocabulary=model.count("vocab_size"),
        context_length=model.count("context_length"),
        eos=model.tokens("eos_token_id"),
    )


def _plain(folder: Path) -> DecoderConfig:
    """The facts that the graph's names and the files of transformers beside it give."""
    file = folder / MODEL
    if not file.is_file():
        raise ModelError(f"{folder}: has neither {GENAI} nor {MODEL}; expected a decoder folder{_REMEDY}")
    inputs = [i.name for i in outlined(file).graph.input]
    layers = sorted(int(match[1]) for match in map(_PAST_KEY.fullmatch, inputs) if match)
    if not layers:
        raise ModelError(
            f"{file}: has no inputs {PAST['key'].replace('%d', 'N')}, but {shown(inputs)}; expected a decoder with a "
            f"key/value cache, or a {GENAI} that names its inputs"
        )
    usual = {**INPUTS, **OUTPUTS}
    patterns = {use: name for use, name in usual.items() if use.endswith("_names")}
    path = folder / CONFIG
    config = _Fields(path, read_json(path) if path.is_file() else {})
    generation = folder / GENERATION
    settings = _Fields(generation, read_json(generation) if generation.is_file() else {})
    heads, hidden_size = config.count("num_attention_heads"), config.count("hidden_size")
    return DecoderConfig(
        model=file,
        source=path if path.is_file() else file,
        names={use: name for use, name in usual.items() if use not in patterns},
        named=frozenset(),
        cache=_cache(patterns, layers),
        kv_heads=config.count("num_key_value_heads") or heads,
        head_dim=config.count("head_dim") or (hidden_size // heads if hidden_size and heads else None),
        vocabulary=config.count("vocab_size"),
        context_length=config.count("max_position_embeddings"),
        eos=settings.tokens("eos_token_id") or config.tokens("eos_token_id"),
    )


def _depth(path: Path, layers: int) -> int:
    """A number of layers, as a file says it."""
    if layers > _DEEPEST:
        raise ModelError(f"{path}: num_hidden_layers is {layers}, expected at most {_DEEPEST}")
    return layers


def _cache(patterns: Mapping[str, str], layers: Iterable[int]) -> tuple[CachePart, ...]:
    """Names of the cache of each layer."""
    return tuple(
        CachePart(*(patterns[f"{time}_{kind}_names"].replace("%d", str(layer)) for time in ("past", "present")))
        for layer in layers
        for kind in ("key", "value")
    )


def read_json(path: Path) -> JsonValue:
    """The data in a JSON file.

    Raises:
        ModelError: it cannot be read, or is no JSON.
    """
    try:
        return cast(JsonValue, json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is no JSON: {error}") from None
