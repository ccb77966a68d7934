"""The proof of a decoder folder on a text: perplexity, and the distance from the predictions of the original."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np

from onnxquant.arguments import checked
from onnxquant.artifact.records import records
from onnxquant.artifact.restore import dequantize
from onnxquant.errors import FeedError, ModelError, RecipeError
from onnxquant.graph.io import load
from onnxquant.json_data import INLINE
from onnxquant.language.folder_names import DATA, MODEL, TOKENIZER
from onnxquant.language.running.decoder import Decoder, Logits, Tokens
from onnxquant.language.running.divergence import Comparison, Divergence
from onnxquant.language.running.folder import is_decoder_folder
from onnxquant.language.running.text import TextTokenizer, read_text
from onnxquant.language.write_decoder import write_decoder
from onnxquant.recipe.progress import Progress, silent
from onnxquant.validation.compare import LARGE_BYTES

# Tokens of a window, where the contexts hold as many.
WINDOW = 512
_SMALLEST_WINDOW = 4
_STAGE = "reading windows"
# Characters of a text for each token that is asked for: far more than tokens have.
_CHARACTERS = 64


@dataclass(frozen=True)
class LanguageProof:
    """A decoder folder against its original on a text.

    Attributes:
        original: the original.
        decoder: the folder.
        text: file of the text.
        window: tokens of a window.
        windows: number of windows, which follow each other without overlap; the rest of the text is left out.
        first: place in each window of the first token that is predicted; each one is predicted from all before it.
        original_bytes: size of the original's graph and data.
        bytes: that of the folder's.
        seconds: time of the proof.
        divergence: figures of all positions.
        missed: sentences on bounds that are not met.
        is_bounded: whether any bound was asked for; without one the figures are for the reader to judge.
    """

    original: str
    decoder: str
    text: str
    window: int
    windows: int
    first: int
    original_bytes: int
    bytes: int
    seconds: float
    divergence: Divergence = field(metadata=INLINE)
    missed: list[str]
    is_bounded: bool = False

    @property
    def passed(self) -> bool:
        """Whether every bound is met."""
        return not self.missed


@dataclass(frozen=True)
class LanguageBounds:
    """Bounds of a proof; None: none.

    Attributes:
        kl: largest mean KL divergence in nats.
        perplexity_ratio: largest perplexity over that of the original.
    """

    kl: float | None = None
    perplexity_ratio: float | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RecipeError: one is below what it can be.
        """
        for name, bound in (("max_kl", self.kl), ("max_perplexity_ratio", self.perplexity_ratio)):
            if bound is not None and not bound >= 0:
                raise RecipeError(f"{name} is {bound}, expected 0 or more")

    def missed(self, figures: Divergence) -> list[str]:
        """Sentences on bounds that are not met; numbers that are none meet nothing, asked for or not."""
        if not isfinite(figures.original_perplexity.value):
            return ["logits of the original are no finite numbers"]
        if not (isfinite(figures.perplexity.value) and isfinite(figures.kl.value)):
            return [f"logits are no finite numbers: `onnxquant verify` of its {MODEL} names tensors that are damaged"]
        return [
            f"{name} is {value:.4g}, the bound {bound:g}"
            for name, value, bound in (
                ("mean KL divergence", figures.kl.value, self.kl),
                ("perplexity ratio", figures.perplexity_ratio.value, self.perplexity_ratio),
            )
            if bound is not None and not value <= bound
        ]


@checked
def validate(
    original: str | Path,
    folder: str | Path,
    text: str | Path,
    *,
    window: int | None = None,
    tokens: int | None = None,
    all_positions: bool = False,
    max_kl: float | None = None,
    max_perplexity_ratio: float | None = None,
    threads: int | None = None,
    library: bool = True,
    progress: Progress = silent,
) -> LanguageProof:
    """Prove a decoder folder against its original on a text.

    The text is cut into windows that do not overlap, each read from an empty context. As in llama.cpp's perplexity tool the
    tokens of the second half of each are predicted, from all before them, and the first token of each becomes the one that
    begins a text where the tokenizer has one.

    Args:
        original: a decoder folder, a GGUF file, or a folder of a Hugging Face checkpoint.
        folder: the decoder folder to prove.
        text: a file of UTF-8 text, a ``.jsonl`` file with a field ``text``, or a folder of such files.
        window: tokens of a window; None: 512, or the smaller context.
        tokens: tokens of the text that are read at most; None: all.
        all_positions: all tokens of a window but its first are predicted.
        max_kl: largest mean KL divergence in nats.
        max_perplexity_ratio: largest perplexity over that of the original.
        threads: number of threads; None: onnxruntime's choice.
        library: operators of onnxquant run on its compiled library.
        progress: called with the name of the stage and the part of it that is done.

    Raises:
        ModelError: a folder is damaged, or the two are not of the same vocabulary.
        CheckpointError: the original is a checkpoint that cannot be read, or of an architecture that is not known.
        FeedError: the text cannot be read, or is shorter than a window.
        RecipeError: an argument is out of range.
    """
    begin = time.monotonic()
    bounds = LanguageBounds(max_kl, max_perplexity_ratio)
    for name, count, least in (("window", window, _SMALLEST_WINDOW), ("tokens", tokens, 1), ("threads", threads, 1)):
        if count is not None and count < least:
            raise RecipeError(f"{name} is {count}, expected at least {least}")
    read = read_text(Path(text))
    progress("loading", 0.0)
    with opened(original, threads=threads, library=library, progress=progress) as source:
        reference, decoder = source.decoder, Decoder(folder, threads=threads, library=library)
        if reference.vocabulary != decoder.vocabulary:
            raise ModelError(
                f"{decoder.config.model} has {decoder.vocabulary} tokens, {original} {reference.vocabulary}: "
                "expected decoders of the same vocabulary"
            )
        size = window or min(
            [WINDOW, *(d.config.context_length for d in (reference, decoder) if d.config.context_length)]
        )
        if size < _SMALLEST_WINDOW:
            raise ModelError(
                f"a context of {size} tokens is too short for a proof; expected {_SMALLEST_WINDOW} or more"
            )
        if tokens is not None and tokens < size:
            raise RecipeError(f"tokens is {tokens}, fewer than a window of {size}: give more, or a smaller window")
        progress("making tokens", 0.0)
        ids, prefix = _tokens(reference, decoder, read, tokens)
        rows = _windows(ids[:tokens], prefix, size, str(text))
        first = 1 if all_positions else size // 2 + 1
        comparison = Comparison()
        reading = _Reading(progress, 2 * rows.size)
        for row in rows:
            _compare(comparison, reading, (reference, decoder), row, first)
    return LanguageProof(
        original=str(original),
        decoder=str(folder),
        text=str(text),
        window=size,
        windows=len(rows),
        first=first,
        original_bytes=source.nbytes,
        bytes=load(decoder.config.model).size(),
        seconds=time.monotonic() - begin,
        divergence=(figures := comparison.result()),
        missed=bounds.missed(figures),
        is_bounded=(max_kl, max_perplexity_ratio) != (None, None),
    )


@dataclass(frozen=True)
class _Original:
    """The decoder that a proof compares with, and the bytes of its weights."""

    decoder: Decoder
    nbytes: int


@contextmanager
def opened(original: str | Path, *, threads: int | None, library: bool, progress: Progress) -> Iterator[_Original]:
    """The decoder that a proof compares with.

    Args:
        original: a decoder folder; or a checkpoint, which becomes a temporary one of float weights: onnxruntime takes seconds
            and gigabytes to decode codes.
        threads: number of threads; None: onnxruntime's choice.
        library: operators of onnxquant run on its compiled library.
        progress: called with the name of the stage and the part of it that is done.

    Raises:
        ModelError: it cannot be opened.
        CheckpointError: it is a checkpoint that cannot be read, or of an architecture that is not known.
    """
    if not _is_checkpoint(Path(original)):
        decoder = Decoder(original, threads=threads, library=library)
        yield _Original(decoder, load(decoder.config.model).size())
        return
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as place:
        folder = Path(place) / "original"
        report = write_decoder(original, folder, progress=progress, compute="float")
        if records(load(folder / MODEL).proto):
            progress("decoding weights", 0.0)
            coded, folder = folder, Path(place) / "floats"
            shutil.copytree(coded, folder, ignore=shutil.ignore_patterns(MODEL, DATA))
            dequantize(coded / MODEL, folder / MODEL, progress=progress)
            shutil.rmtree(coded)
        progress("loading", 0.0)
        is_large = load(folder / MODEL).size() > LARGE_BYTES
        yield _Original(Decoder(folder, threads=threads, library=library, mapped=is_large), report.source_bytes)


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a file of tensors, or a folder of them without a graph."""
    return path.is_file() or (path.is_dir() and not is_decoder_folder(path) and any(path.glob("*.safetensors")))


def _tokens(reference: Decoder, decoder: Decoder, text: str, most: int | None) -> tuple[list[int], list[int]]:
    """Tokens of a text, and those that begin one; both folders must agree where both have a tokenizer.

    Args:
        reference: the original.
        decoder: the decoder to prove.
        text: the text.
        most: number of tokens that are needed, of which the beginning of the text is enough; None: all.
    """
    tokenizer = TextTokenizer(decoder.folder)
    beginning = text if most is None else text[: most * _CHARACTERS]
    ids = tokenizer.encode(beginning, special=False)
    if most is not None and len(ids) <= most:
        beginning = text
        ids = tokenizer.encode(text, special=False)
    if (reference.folder / TOKENIZER).is_file():
        other = TextTokenizer(reference.folder)
        if other.prefix != tokenizer.prefix or other.encode(beginning, special=False) != ids:
            raise ModelError(
                f"{tokenizer.path} and {other.path} give other tokens for the text: expected the same tokenizer"
            )
    return ids, tokenizer.prefix


def _windows(ids: Sequence[int], prefix: Sequence[int], size: int, name: str) -> Tokens:
    """Windows of tokens [count, size]; the token that begins a text takes the place of their first."""
    begun = [*prefix, *ids]
    count = len(begun) // size
    if not count:
        raise FeedError(
            f"{name}: has {len(begun)} tokens, fewer than a window of {size}: give a longer text, or --window"
        )
    rows = np.array(begun[: count * size], np.int64).reshape(count, size)
    rows[:, : len(prefix)] = prefix
    return rows


@dataclass
class _Reading:
    """The progress of a proof.

    Attributes:
        progress: called with the part that is done.
        total: tokens that are read, by both decoders together.
        done: those that have been read.
    """

    progress: Progress
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        """Begin."""
        self.progress(_STAGE, 0.0)

    def counted(self, parts: Iterator[Logits]) -> Iterator[Logits]:
        """The logits of the parts of a window, each counted once it was read."""
        for part in parts:
            self.done += part.shape[1]
            self.progress(_STAGE, self.done / self.total)
            yield part


def _compare(
    comparison: Comparison, reading: _Reading, decoders: tuple[Decoder, Decoder], row: Tokens, first: int
) -> None:
    """Compare the predictions of a window's tokens from the place ``first`` on."""
    length = len(row)
    parts = zip(*(reading.counted(d.start(capacity=length).logits(row[None])) for d in decoders), strict=True)
    end = 0
    for original, other in parts:
        begin, end = end, end + original.shape[1]
        # Logits at place i predict the token at i + 1.
        places = range(max(begin + 1, first), min(end + 1, length))
        if places:
            rows = slice(places.start - begin - 1, places.stop - begin - 1)
            comparison.add(original[0, rows], other[0, rows], row[places.start : places.stop], places.start)
