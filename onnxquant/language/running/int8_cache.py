"""A decoder whose keys and values are kept as int8: a quarter of the memory of float32."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxquant.arguments import checked
from onnxquant.errors import FeedError, ModelError, OutputError, OutputExistsError
from onnxquant.graph.names import MICROSOFT
from onnxquant.interchange.folders import whole_folder
from onnxquant.language.running.decoder import Context, Decoder, Tokens
from onnxquant.language.running.folder import DecoderConfig
from onnxquant.language.running.text import TextTokenizer, read_text
from onnxquant.recipe.progress import Progress, silent

TOKENS = 1024
"""Tokens that ranges are measured on, at most."""
_WINDOW = 256
# Texts that the model writes side by side.
_SIDE_BY_SIDE = 4
_LARGEST_CODE = 127
# Channels of smaller ranges, as a share of the widest one, could be steps of zero.
_LEAST_SHARE = 1e-4
_ATTENTION = "GroupQueryAttention"
_PAST_KEY, _PAST_VALUE, _SCALES = 3, 4, (12, 13)
_STAGE = "measuring keys and values"

Ranges = Mapping[str, NDArray[np.float32]]
"""Largest magnitude of each channel of a part of the cache [heads, width], by the name of its input."""


@dataclass(frozen=True)
class CacheReport:
    """A decoder folder whose cache is int8.

    Attributes:
        output: the folder.
        tokens: tokens that the ranges were measured on.
        token_bytes: bytes of the keys and values of one token.
        source_token_bytes: those of the source.
    """

    output: str
    tokens: int
    token_bytes: int
    source_token_bytes: int


@checked
def quantize_cache(
    folder: str | Path,
    output: str | Path,
    *,
    text: str | Path | None = None,
    threads: int | None = None,
    library: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> CacheReport:
    """Write a decoder folder again, so that it keeps keys and values as int8.

    Each channel of each head has one scale. It is the largest magnitude that the channel has on a text: a given one, or one
    that the model writes itself. Rotations turn pairs of channels into each other, so that both channels of a pair of keys
    have the largest magnitude of the pair. onnxruntime runs such graphs from 1.27 on.

    Args:
        folder: a decoder folder with GroupQueryAttention and a float32 cache.
        output: folder to write.
        text: a file of UTF-8 text, of which 1024 tokens are read; None: the model writes as many.
        threads: number of threads; None: onnxruntime's choice.
        library: operators of onnxquant run on its compiled library.
        force: replace an existing folder of this kind.
        progress: called with the part that is done.

    Raises:
        ModelError: the folder is damaged, or its attention has no such cache.
        FeedError: the text cannot be read, or is empty.
        OutputError: the output is there already, or cannot be written.
    """
    output = Path(output)
    decoder = Decoder(folder, threads=threads, library=library, spinning=False)
    proto = _graph(decoder.config)
    if output.exists() and not force:
        raise OutputExistsError(f"{output}: exists already; pass --force (force=True) to replace it")
    if output.resolve() == decoder.folder.resolve():
        raise OutputError(f"{output}: is the source itself; expected another output")
    count, ranges = _measured(decoder, None if text is None else Path(text), progress)
    names = {file.name for file in decoder.folder.iterdir() if file.is_file()}
    with whole_folder(output, names.__contains__) as place:
        for name in names - {decoder.config.model.name}:
            shutil.copyfile(decoder.folder / name, place / name)
        _edit(proto, decoder.config, ranges)
        (place / decoder.config.model.name).write_bytes(proto.SerializeToString())
    channels = sum(values.size for values in ranges.values())
    return CacheReport(str(output), count, channels, 4 * channels)


def _graph(config: DecoderConfig) -> onnx.ModelProto:
    """The graph of a decoder, if its attention can keep int8."""
    proto = onnx.load(config.model, load_external_data=False)
    parts = {part.past for part in config.cache}
    in_attention = {name for node in _attention(proto) for name in node.input[_PAST_KEY : _PAST_VALUE + 1]}
    if not parts <= in_attention:
        raise ModelError(
            f"{config.model}: {min(parts - in_attention)} is not read by {_ATTENTION}, which alone keeps int8; expected a "
            "decoder of onnxquant convert or of onnxruntime-genai's builder"
        )
    kinds = {i.name: i.type.tensor_type.elem_type for i in proto.graph.input}
    if wrong := next((name for name in sorted(parts) if kinds[name] != TensorProto.FLOAT), None):
        kind = TensorProto.DataType.Name(kinds[wrong]).lower()
        raise ModelError(f"{config.model}: {wrong} is {kind}, expected float")
    return proto


def _attention(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (node for node in proto.graph.node if (node.domain, node.op_type) == (MICROSOFT, _ATTENTION))


def _measured(decoder: Decoder, text: Path | None, progress: Progress) -> tuple[int, Ranges]:
    """Ranges of all parts of the cache, and the tokens that they were measured on."""
    window = min(_WINDOW, decoder.config.context_length or _WINDOW)
    contexts = _written(decoder, window) if text is None else _read(decoder, text, window)
    count, ranges = 0, dict[str, NDArray[np.float32]]()
    for context in contexts:
        count += int(context.lengths.sum())
        for part, values in context.cache():
            largest = np.abs(values[:, :, : int(context.lengths.max())]).max((0, 2))
            ranges[part.past] = np.maximum(ranges.get(part.past, largest), largest)
        progress(_STAGE, min(count / TOKENS, 1.0))
    return count, ranges


def _read(decoder: Decoder, text: Path, window: int) -> Iterator[Context]:
    """Contexts that have read a text in windows."""
    tokenizer = TextTokenizer(decoder.folder)
    ids = tokenizer.encode(read_text(text), special=False)[:TOKENS]
    if not ids:
        raise FeedError(f"{text}: is empty: expected a text to measure keys and values on")
    size = window - len(tokenizer.prefix)
    for begin in range(0, len(ids), size):
        context = decoder.start(capacity=window)
        context.read([[*tokenizer.prefix, *ids[begin : begin + size]]])
        yield context


def _written(decoder: Decoder, window: int) -> Iterator[Context]:
    """Contexts in which the model has written texts: tokens are drawn by their probabilities."""
    draws = np.random.default_rng(0)
    bos = decoder.config.bos
    for _ in range(max(1, TOKENS // (_SIDE_BY_SIDE * window))):
        context = decoder.start(_SIDE_BY_SIDE, window)
        first = draws.integers(0, decoder.vocabulary or 1, (_SIDE_BY_SIDE, 1))
        tokens: Tokens = first if bos is None else np.full_like(first, bos)
        for _ in range(window):
            logits = context.read(tokens.tolist())
            # The largest of logits with noise of this kind is a draw by their probabilities.
            tokens = (logits + draws.gumbel(size=logits.shape)).argmax(-1)[:, None]
        yield context


def _edit(proto: onnx.ModelProto, config: DecoderConfig, ranges: Ranges) -> None:
    """Make the cache int8, with scales of the given ranges."""
    names = {name for part in config.cache for name in (part.past, part.present)}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.name in names:
            value.type.tensor_type.elem_type = TensorProto.INT8
    for node in _attention(proto):
        node.input.extend([""] * (max(_SCALES) + 1 - len(node.input)))
        for place, past in zip(_SCALES, node.input[_PAST_KEY : _PAST_VALUE + 1], strict=True):
            largest = ranges[past]
            if past == node.input[_PAST_KEY]:
                largest = _of_pairs(largest, node)
            scales = np.maximum(largest, largest.max() * _LEAST_SHARE) / np.float32(_LARGEST_CODE)
            scales = np.where(scales > 0, scales, np.float32(1))[None, :, None]
            node.input[place] = f"{past}.scales"
            proto.graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), node.input[place]))
        for kind in ("k_quant_type", "v_quant_type"):
            node.attribute.append(helper.make_attribute(kind, "PER_CHANNEL"))
        node.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))


def _of_pairs(largest: NDArray[np.float32], node: onnx.NodeProto) -> NDArray[np.float32]:
    """Largest magnitudes of keys, with those of both channels of each pair that a rotation turns.

    Args:
        largest: largest magnitudes [heads, width].
        node: the attention. Its rotations turn all channels: partial ones leave the others beside these, which then have the
            range of another channel too.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if not attributes.get("do_rotary"):
        return largest
    heads, width = largest.shape
    is_interleaved = bool(attributes.get("rotary_interleaved"))
    pairs = largest.reshape((heads, width // 2, 2) if is_interleaved else (heads, 2, width // 2))
    axis = 2 if is_interleaved else 1
    return np.broadcast_to(pairs.max(axis, keepdims=True), pairs.shape).reshape(largest.shape)
