"""Facts that a decoder folder gives about its graph: names of inputs and outputs, sizes, and the tokens that end a text.

``genai_config.json`` says it where there is one, as onnxruntime-genai reads it. A folder without one has ``model.onnx`` with
the names that Optimum gives, and ``config.json`` beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from onnxquant.errors import ModelError, shown
from onnxquant.graph.io import outlined
from onnxquant.language.fields import Fields, JsonFiles
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
_LONGEST_NAME = 200
# Graphs that an error names.
_NAMED = 6
_PAST_KEY = re.compile(re.escape(PAST["key"]).replace("%d", r"(\d+)"))


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
        bos: the token that begins one; None: not known.
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
    bos: int | None = None


def is_decoder_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a graph or a configuration of onnxruntime-genai."""
    folder = Path(path)
    return (folder / GENAI).is_file() or (folder / MODEL).is_file()


def model_file(folder: Path) -> Path:
    """The file of the graph of a decoder folder.

    Raises:
        ModelError: the configuration is damaged, or the file is missing.
    """
    path = folder / GENAI
    if not path.is_file():
        return folder / MODEL
    decoder = JsonFiles(folder, ModelError).fields(GENAI).inner("model").inner("decoder")
    file = folder / _file_name(decoder, "filename", MODEL)
    if not file.is_file():
        raise ModelError(f"{file}: is missing, though {path} names it: model.decoder.filename")
    return file


def read_config(folder: Path) -> DecoderConfig:
    """The facts of a decoder folder.

    Raises:
        ModelError: a file is missing, or a field is missing or wrong.
    """
    if folder.is_file() and is_decoder_folder(folder.parent):
        raise ModelError(f"{folder}: is a file; expected its folder: {folder.parent}")
    if not folder.is_dir():
        raise ModelError(f"{folder}: is no folder; expected a decoder folder, with {GENAI} or {MODEL}{_REMEDY}")
    if (folder / GENAI).is_file():
        return _genai(folder)
    return _plain(folder)


def _genai(folder: Path) -> DecoderConfig:
    """The facts that genai_config.json gives."""
    path = folder / GENAI
    model = JsonFiles(folder, ModelError).fields(GENAI).inner("model")
    decoder = model.inner("decoder")
    fields = {**dict.fromkeys(INPUTS, decoder.inner("inputs")), **dict.fromkeys(OUTPUTS, decoder.inner("outputs"))}
    names = {use: _name(fields[use], use, usual) for use, usual in {**INPUTS, **OUTPUTS}.items()}
    patterns = {use: name for use, name in names.items() if use.endswith("_names")}
    if wrong := next((use for use, name in patterns.items() if name.count("%d") != 1), None):
        raise ModelError(
            f"{path}: {wrong} is {names[wrong]!r}, expected a name with one %d for the number of the layer"
        )
    return DecoderConfig(
        model=model_file(folder),
        source=path,
        names={use: name for use, name in names.items() if use not in patterns},
        named=frozenset(use for use, name in names.items() if fields[use].has(use)),
        cache=_cache(patterns, range(decoder.depth("num_hidden_layers"))),
        kv_heads=decoder.count_or_none("num_key_value_heads"),
        head_dim=decoder.count_or_none("head_size"),
        vocabulary=model.count_or_none("vocab_size"),
        context_length=model.count_or_none("context_length"),
        eos=model.tokens("eos_token_id"),
        bos=next(iter(model.tokens("bos_token_id")), None),
    )


def _plain(folder: Path) -> DecoderConfig:
    """The facts that the graph's names and the files of transformers beside it give."""
    file = folder / MODEL
    if not file.is_file():
        raise ModelError(f"{folder}: has neither {GENAI} nor {MODEL}{_found(folder)}; expected a decoder folder{_REMEDY}")
    inputs = [i.name for i in outlined(file).graph.input]
    layers = sorted(int(match[1]) for match in map(_PAST_KEY.fullmatch, inputs) if match)
    if not layers:
        raise ModelError(
            f"{file}: has no inputs {PAST['key'].replace('%d', 'N')}, but {shown(inputs)}; expected a decoder with a "
            f"key/value cache, or a {GENAI} that names its inputs"
        )
    usual = {**INPUTS, **OUTPUTS}
    patterns = {use: name for use, name in usual.items() if use.endswith("_names")}
    path, files = folder / CONFIG, JsonFiles(folder, ModelError)
    config, generation = files.fields(CONFIG), files.fields(GENERATION)
    heads, hidden_size = config.count_or_none("num_attention_heads"), config.count_or_none("hidden_size")
    return DecoderConfig(
        model=file,
        source=path if path.is_file() else file,
        names={use: name for use, name in usual.items() if use not in patterns},
        named=frozenset(),
        cache=_cache(patterns, layers),
        kv_heads=config.count_or_none("num_key_value_heads") or heads,
        head_dim=config.count_or_none("head_dim") or (hidden_size // heads if hidden_size and heads else None),
        vocabulary=config.count_or_none("vocab_size"),
        context_length=config.count_or_none("max_position_embeddings"),
        eos=generation.tokens("eos_token_id") or config.tokens("eos_token_id"),
        bos=next(iter(config.tokens("bos_token_id")), None),
    )


def _found(folder: Path) -> str:
    """The graphs that a folder has in place of a decoder's, in words."""
    graphs = sorted(file.name for file in folder.glob("*.onnx"))
    if not graphs:
        return ""
    kind = ", those of an encoder and its decoder, which do not run here" if any("encoder" in n for n in graphs) else ""
    return f", but {', '.join(graphs[:_NAMED])}{kind}"


def _name(fields: Fields, key: str, default: str) -> str:
    """A name that a configuration gives."""
    name = fields.text(key, default)
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise fields.error(key, name, f"a name of 1 to {_LONGEST_NAME} characters")
    return name


def _file_name(fields: Fields, key: str, default: str) -> str:
    """The name of a file in the folder, or in a folder of it."""
    name = _name(fields, key, default)
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise fields.error(key, name, "the name of a file in the folder")
    return name


def _cache(patterns: Mapping[str, str], layers: Iterable[int]) -> tuple[CachePart, ...]:
    """Names of the cache of each layer."""
    return tuple(
        CachePart(*(patterns[f"{time}_{kind}_names"].replace("%d", str(layer)) for time in ("past", "present")))
        for layer in layers
        for kind in ("key", "value")
    )
