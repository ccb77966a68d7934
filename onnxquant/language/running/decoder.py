"""A decoder on onnxruntime: it reads tokens, keeps their keys and values, and gives the logits of the next ones.

The key/value cache lies in buffers of its largest length where the graph can write into its own past (GroupQueryAttention);
else the present of one run is the past of the next one, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds.caches import LOGITS_COUNT
from onnxquant.errors import FeedError, ModelError, RecipeError, nearest
from onnxquant.graph.io import outlined
from onnxquant.language.folder_names import ATTENTION_MASK, INPUT_IDS, LOGITS, POSITION_IDS
from onnxquant.language.running.folder import CachePart, DecoderConfig, read_config

Tokens: TypeAlias = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32]
# Bytes of the logits of one run, at most: longer texts are read in parts.
_LOGITS_BYTES = 1 << 28
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
_INTEGERS: dict[str, np.dtype[Any]] = {"tensor(int64)": np.dtype(np.int64), "tensor(int32)": np.dtype(np.int32)}
_SHARING = "GroupQueryAttention"
# Places of past key and value among its inputs, of present key and value among its outputs.
_PAST_INPUTS, _PRESENT_OUTPUTS = (3, 4), (1, 2)


class Decoder:
    """The decoder of a folder, in a session.

    Args:
        folder: a decoder folder: ours, that of onnxruntime-genai's builder, or Optimum's.
        threads: number of threads; None: onnxruntime's choice.
        library: operators of ours run on the compiled library; without it their bodies run.
        spinning: threads without work wait at full speed.
        trace: folder for a trace of the runs; None: they are not traced.
        mapped: weights stay in the mapped file: slower, but they take no memory.

    Raises:
        ModelError: a file or a field is missing or wrong, the graph has other inputs or outputs than the configuration names,
            or onnxruntime refuses it.

    Attributes:
        config: the facts of the folder.
        vocabulary: number of tokens.
        shares_buffers: the cache lies in buffers that the graph writes into.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        library: bool = True,
        spinning: bool = True,
        trace: Path | None = None,
        mapped: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.config = config = read_config(self.folder)
        outline = outlined(config.model)
        options = runtime.session_options(threads=threads, spinning=spinning, mapped=mapped)
        self._trace = trace
        if trace is not None:
            runtime.trace_into(options, trace)
        self._session = runtime.open_session(config.model, options, library=library)
        inputs = {name: (kind, shape) for name, kind, shape in runtime.inputs_of(self._session)}
        outputs = runtime.outputs_of(self._session)
        _check_names(config, list(inputs), list(outputs))
        self._has_mask = config.names[ATTENTION_MASK] in inputs
        self._has_positions = config.names[POSITION_IDS] in inputs
        self._integers = _integers(config, {name: kind for name, (kind, _) in inputs.items()})
        self._dtype = _cache_dtype(config, {part.past: inputs[part.past][0] for part in config.cache})
        self._shapes = {part: _heads(config, part, inputs[part.past][1]) for part in config.cache}
        self.shares_buffers = _shares_buffers(outline, config)
        # GroupQueryAttention takes a mask for the number of tokens alone, so that those of a text come first.
        self.pads_right = any(node.op_type == _SHARING for node in outline.graph.node)
        # Graphs of ours compute the logits of the last positions alone, so many as they are asked for.
        self._takes_count = any(value.name == LOGITS_COUNT for value in outline.graph.input)
        self.vocabulary = _vocabulary(outline, config)

    def start(self, batch: int = 1, capacity: int | None = None) -> Context:
        """An empty context.

        Args:
            batch: number of texts that are read side by side.
            capacity: largest number of tokens of each; None: what the decoder can hold.

        Raises:
            FeedError: the decoder holds fewer tokens.
        """
        limit = self.config.context_length
        if capacity is not None and limit is not None and capacity > limit:
            raise FeedError(
                f"{self.folder}: {capacity} tokens are more than its context of {limit}: give a shorter text or ask for fewer"
            )
        return Context(self, batch, limit if capacity is None else capacity)

    def end_trace(self) -> runtime.Trace:
        """The trace of the runs so far.

        Raises:
            RecipeError: they were not traced.
        """
        if self._trace is None:
            raise RecipeError("trace is None, expected a folder: the runs of this decoder were not traced")
        return runtime.end_trace(self._session, self._trace)

    def _run(
        self,
        feed: Mapping[str, NDArray[Any]],
        past: Mapping[str, runtime.Buffer],
        outputs: Mapping[str, runtime.Buffer | None],
    ) -> dict[str, runtime.Buffer]:
        """Run the graph; see ``run_on_buffers``.

        Raises:
            FeedError: it does not fit into memory.
            ModelError: onnxruntime fails.
        """
        try:
            return runtime.run_on_buffers(self._session, feed, past, outputs)
        except MemoryError:
            batch, length = feed[self.config.names[INPUT_IDS]].shape
            raise FeedError(
                f"{self.config.model}: {batch} x {length} tokens at once do not fit into memory: give shorter texts or fewer"
            ) from None
        except ModelError as error:
            heads, width = next(iter(self._shapes.values()))
            raise ModelError(
                f"{self.config.model}: does not run on the inputs that {self.config.source} says, with a cache of {heads} "
                f"heads of {width} channels: {error}"
            ) from None


class Context:
    """The texts that a decoder has read so far, as its key/value cache; see ``Decoder.start``.

    Attributes:
        decoder: the decoder.
        capacity: largest number of tokens of each text; None: not known.
        lengths: number of tokens of each text, int64 [batch].
    """

    def __init__(self, decoder: Decoder, batch: int, capacity: int | None) -> None:
        self.decoder, self.capacity = decoder, capacity
        self._slots = 0
        self._shares = decoder.shares_buffers and capacity is not None
        room = capacity if capacity is not None and decoder.shares_buffers else 0
        try:
            self.lengths = np.zeros(batch, np.int64)
            self._cache = {
                part: runtime.zeros((batch, heads, room, head), decoder._dtype)
                for part, (heads, head) in decoder._shapes.items()
            }
        except (MemoryError, ValueError):  # numpy has no arrays of such a size
            raise FeedError(
                f"{decoder.folder}: keys and values of {room} tokens do not fit into memory: ask for fewer (capacity)"
            ) from None

    def read(self, texts: Sequence[Sequence[int]]) -> Logits:
        """Read more tokens of each text.

        Args:
            texts: tokens of each text. Their numbers may differ where the context is empty and the graph has a mask.

        Returns:
            logits of the token after the last one of each text [batch, vocabulary].

        Raises:
            FeedError: a token outside the vocabulary, too many tokens, or numbers of tokens that differ.
            ModelError: onnxruntime fails.
        """
        lengths = np.array([len(text) for text in texts], np.int64)
        if len(texts) != len(self.lengths) or not lengths.all():
            raise FeedError(
                f"{len(texts)} texts of {lengths.tolist()} tokens, expected {len(self.lengths)}, none empty"
            )
        if (lengths == lengths[0]).all():
            for piece in self._parts(np.array(texts, np.int64)):
                last = self._run(piece, 1, piece.shape[1])[:, -1]
            return last
        return self._read_padded(texts, lengths)

    def logits(self, tokens: Tokens) -> Iterator[Logits]:
        """Read more tokens of each text, in parts whose logits do not fill the memory.

        Args:
            tokens: tokens [batch, length].

        Yields:
            logits [batch, part, vocabulary] of the tokens after each one.

        Raises:
            FeedError: a token outside the vocabulary, or too many tokens.
            ModelError: onnxruntime fails.
        """
        for piece in self._parts(tokens):
            yield self._run(piece, piece.shape[1], piece.shape[1])

    def cache(self) -> Iterator[tuple[CachePart, NDArray[Any]]]:
        """Keys and values [batch, heads, length, width] of all layers; behind those of the tokens there may be room."""
        return ((part, buffer.numpy()) for part, buffer in self._cache.items())

    def _parts(self, tokens: Tokens) -> Iterator[Tokens]:
        """Parts of the tokens, each to be run next."""
        self._check(tokens)
        batch, length = tokens.shape
        part = max(1, _LOGITS_BYTES // (4 * batch * (self.decoder.vocabulary or 1)))
        for begin in range(0, length, part):
            yield tokens[:, begin : begin + part]

    def _read_padded(self, texts: Sequence[Sequence[int]], lengths: Tokens) -> Logits:
        """Read texts of several lengths into an empty context: in one run, padded."""
        decoder = self.decoder
        if self._slots or not decoder._has_mask:
            why = "the context is not empty" if self._slots else f"{decoder.config.model} has no attention mask"
            raise FeedError(f"texts of {lengths.tolist()} tokens: {why}, expected texts of one length")
        longest = int(lengths.max())
        padded = np.zeros((len(texts), longest), np.int64)
        for row, text in zip(padded, texts, strict=True):
            row[: len(text)] = text
            if not decoder.pads_right:
                row[:] = np.roll(row, longest - len(text))
        self._check(padded)
        logits = self._run(padded, 1, lengths)
        is_padded = decoder.pads_right and logits.shape[1] == longest
        return logits[np.arange(len(texts)), lengths - 1] if is_padded else logits[:, -1]

    def _check(self, tokens: Tokens) -> None:
        """Refuse tokens that the decoder does not know or has no room for."""
        if tokens.ndim != 2 or len(tokens) != len(self.lengths):
            raise FeedError(f"tokens have the shape {list(tokens.shape)}, expected [{len(self.lengths)}, length]")
        vocabulary = self.decoder.vocabulary
        wrong = tokens[(tokens < 0) | (tokens >= vocabulary)] if vocabulary else tokens[tokens < 0]
        if wrong.size:
            raise FeedError(
                f"token {wrong[0]} is outside the vocabulary of {self.decoder.config.model}, which has {vocabulary} tokens: "
                "the tokenizer is that of another model"
            )
        total = self._slots + tokens.shape[1]
        if self.capacity is not None and total > self.capacity:
            raise FeedError(
                f"{total} tokens are more than the context of {self.capacity}: give a shorter text, or ask for fewer tokens"
            )

    def _run(self, tokens: Tokens, count: int, added: int | Tokens) -> Logits:
        """Run the graph on more tokens; where it fails the texts are as they were.

        Args:
            tokens: the tokens [batch, length].
            count: number of last tokens of each text whose logits are needed; some graphs give those of all.
            added: number of the tokens of each text that are no padding.
        """
        decoder, names = self.decoder, self.decoder.config.names
        length = tokens.shape[1]
        lengths, total = self.lengths + added, self._slots + length
        slots = np.arange(total)
        feed: dict[str, NDArray[Any]] = {names[INPUT_IDS]: tokens}
        padding = total - lengths[:, None]
        if decoder._has_mask:
            is_token = slots < lengths[:, None] if decoder.pads_right else slots >= padding
            feed[names[ATTENTION_MASK]] = is_token.astype(np.int64)
        if decoder._has_positions:
            shift = 0 if decoder.pads_right and total == length else padding
            feed[names[POSITION_IDS]] = np.maximum(slots[-length:] - shift, 0).astype(np.int64)
            feed[names[POSITION_IDS]] = np.broadcast_to(feed[names[POSITION_IDS]], tokens.shape)
        past = {part.past: buffer for part, buffer in self._cache.items()}
        present = {part.present: buffer if self._shares else None for part, buffer in self._cache.items()}
        if decoder._takes_count:
            feed[LOGITS_COUNT] = np.array(count)
        feed = {name: array.astype(decoder._integers.get(name, np.int64), copy=False) for name, array in feed.items()}
        outputs = decoder._run(feed, past, {names[LOGITS]: None, **present})
        logits = outputs[names[LOGITS]].numpy()
        self.lengths, self._slots = lengths, total
        if not self._shares:
            self._cache = {part: outputs[part.present] for part in self._cache}
        return np.asarray(logits, np.float32)


def _check_names(config: DecoderConfig, inputs: list[str], outputs: list[str]) -> None:
    """Refuse a graph that lacks an input or output of the configuration, or has inputs of which that says nothing."""
    names = config.names
    needed = {INPUT_IDS, *config.named} & (names.keys() - {LOGITS})
    expected = [*(names[use] for use in sorted(needed)), *(part.past for part in config.cache)]
    for name in expected:
        if name not in inputs:
            raise ModelError(
                f"{config.model}: has no input {name!r}, which {config.source} makes it have{nearest(name, inputs)}"
            )
    for name in (names[LOGITS], *(part.present for part in config.cache)):
        if name not in outputs:
            raise ModelError(
                f"{config.model}: has no output {name!r}, which {config.source} makes it have{nearest(name, outputs)}"
            )
    known = {*names.values(), *expected}
    if other := [name for name in inputs if name not in known]:
        raise ModelError(
            f"{config.model}: takes {', '.join(other)}, of which {config.source} says nothing; expected tokens, their mask, "
            "their positions and a key/value cache"
        )


def _integers(config: DecoderConfig, types: Mapping[str, str]) -> dict[str, np.dtype[Any]]:
    """The types of tokens, mask and positions, by the names of inputs that the graph has."""
    present = [config.names[use] for use in (INPUT_IDS, ATTENTION_MASK, POSITION_IDS) if config.names[use] in types]
    for name in present:
        if types[name] not in _INTEGERS:
            raise ModelError(f"{config.model}: {name} is {types[name]}, expected {' or '.join(_INTEGERS)}")
    return {name: _INTEGERS[types[name]] for name in present}


def _cache_dtype(config: DecoderConfig, types: dict[str, str]) -> np.dtype[Any]:
    """The type of the cache."""
    for name, kind in types.items():
        if kind not in _DTYPES or kind != next(iter(types.values())):
            raise ModelError(f"{config.model}: {name} is {kind}, expected {' or '.join(_DTYPES)} for all of the cache")
    return np.dtype(_DTYPES[next(iter(types.values()))])


def _heads(config: DecoderConfig, part: CachePart, shape: Sequence[int | str | None]) -> tuple[int, int]:
    """Number and width of the heads of a part of the cache: those of its input, else those of the configuration."""
    if len(shape) != 4:
        raise ModelError(f"{config.model}: {part.past} has the shape {shape}, expected [batch, heads, length, width]")
    sizes = []
    for place, said, name in ((1, config.kv_heads, "num_key_value_heads"), (3, config.head_dim, "head_size")):
        stated = shape[place]
        size = stated if isinstance(stated, int) else said
        if size is None:
            raise ModelError(
                f"{config.source}: {name} is missing, and {part.past} of {config.model} does not say it either"
            )
        sizes.append(size)
    return sizes[0], sizes[1]


def _shares_buffers(outline: onnx.ModelProto, config: DecoderConfig) -> bool:
    """Whether every past is read by one GroupQueryAttention alone, which writes the present."""
    readers: dict[str, list[str]] = {}
    for node in outline.graph.node:
        takes, gives = list(node.input), list(node.output)
        for name in takes:
            readers.setdefault(name, [])
        if node.op_type != _SHARING:
            for name in takes:
                readers[name].append("")
            continue
        for past, present in zip(_PAST_INPUTS, _PRESENT_OUTPUTS, strict=True):
            if len(takes) > past and len(gives) > present:
                readers[takes[past]].append(gives[present])
    return all(readers.get(part.past) == [part.present] for part in config.cache)


def _vocabulary(outline: onnx.ModelProto, config: DecoderConfig) -> int | None:
    """Number of tokens: the last size of the logits, else that of the configuration."""
    logits = next(output for output in outline.graph.output if output.name == config.names[LOGITS])
    sizes = logits.type.tensor_type.shape.dim
    return (sizes[-1].dim_value if sizes else 0) or config.vocabulary
