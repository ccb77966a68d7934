"""Text that a decoder continues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.errors import FeedError, RecipeError
from onnxquant.language.running.chat import chat_prompt
from onnxquant.language.running.decoder import Context, Decoder
from onnxquant.language.running.sampling import Sampler, Sampling
from onnxquant.language.running.text import TextStream, TextTokenizer

# Tokens that are generated at most, where nothing else is asked for.
MAX_TOKENS = 256
END, LENGTH, CONTEXT = "end", "max_tokens", "context"


@dataclass(frozen=True)
class GenerationSummary:
    """Text and times of a generation.

    Attributes:
        text: the text.
        tokens: its tokens, without that which ends it.
        prompt_tokens: number of tokens of the prompt.
        prompt_seconds: time until the prompt was read and the first token chosen.
        seconds: time from the first token to the last.
        stopped_by: ``end``: a token that ends a text; ``max_tokens``, ``context``: the largest number of tokens of the text,
            or of the context; None: it has not ended.
    """

    text: str
    tokens: list[int]
    prompt_tokens: int
    prompt_seconds: float
    seconds: float
    stopped_by: str | None

    @property
    def prompt_speed(self) -> float:
        """Tokens of the prompt a second."""
        return self.prompt_tokens / max(self.prompt_seconds, 1e-9)

    @property
    def speed(self) -> float | None:
        """Tokens a second after the first one; None where there is no more than one."""
        return (len(self.tokens) - 1) / max(self.seconds, 1e-9) if len(self.tokens) > 1 else None


class Generation(Iterator[str]):
    """An iterator over the pieces of a text, as they come; see ``generate``."""

    def __init__(
        self, context: Context, tokenizer: TextTokenizer, prompt: list[int], sampler: Sampler, max_tokens: int
    ) -> None:
        self._context, self._prompt, self._sampler = context, prompt, sampler
        self._stream = TextStream(tokenizer)
        self._eos = frozenset(context.decoder.config.eos)
        self._max_tokens = max_tokens
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._begin = self._first = self._last = 0.0
        self._stopped_by: str | None = None

    def __next__(self) -> str:
        """The next piece, which is never empty."""
        while self._stopped_by is None:
            if piece := self._step():
                self._pieces.append(piece)
                return piece
        raise StopIteration

    def _step(self) -> str:
        """Text that one more token completes."""
        if not self._tokens:
            self._begin = time.perf_counter()
            logits = self._context.read([self._prompt])
        else:
            logits = self._context.read([self._tokens[-1:]])
        token = self._sampler.choose(logits[0])
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        if token in self._eos:
            self._stopped_by = END
            return self._stream.end()
        self._tokens.append(token)
        piece = self._stream.add(token)
        if len(self._tokens) == self._max_tokens:
            self._stopped_by = LENGTH
        elif len(self._prompt) + len(self._tokens) == self._context.capacity:
            self._stopped_by = CONTEXT
        return piece + (self._stream.end() if self._stopped_by else "")

    @property
    def capacity(self) -> int | None:
        """Largest number of tokens of prompt and text together; None: not known."""
        return self._context.capacity

    @property
    def summary(self) -> GenerationSummary:
        """Text and times so far."""
        return GenerationSummary(
            "".join(self._pieces),
            list(self._tokens),
            len(self._prompt),
            self._first - self._begin,
            self._last - self._first,
            self._stopped_by,
        )


@checked
def generate(
    folder: str | Path,
    prompt: str,
    *,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    threads: int | None = None,
    library: bool = True,
) -> Generation:
    """Continue a text with the decoder of a folder.

    Args:
        folder: a decoder folder with a ``tokenizer.json``.
        prompt: the text.
        max_tokens: largest number of new tokens; None: 256, or as many as the context has room for.
        temperature: divisor of the logits; 0: the most probable token is taken each time.
        top_k: number of the most probable tokens that may be taken; 0: all.
        top_p: probability that the most probable tokens have together at least, which may be taken; 1: all.
        seed: seed of the draws.
        chat: the prompt is a message, which the chat template of the folder wraps.
        threads: number of threads; None: onnxruntime's choice.
        library: operators of onnxquant run on its compiled library; without it their bodies run.

    Returns:
        an iterator over the pieces of the new text, with a ``summary``.

    Raises:
        ModelError: the folder or its graph is damaged, or there is no chat template.
        FeedError: the prompt is empty or too long, or the package tokenizers is missing.
        RecipeError: an argument is out of range, or has no effect.
    """
    rules = Sampling(temperature, top_k, top_p, seed)
    if max_tokens is not None and max_tokens < 1:
        raise RecipeError(f"max_tokens is {max_tokens}, expected at least 1")
    if threads is not None and threads < 1:
        raise RecipeError(f"threads is {threads}, expected at least 1")
    place = Path(folder)
    decoder = Decoder(place, threads=threads, library=library)
    tokenizer = TextTokenizer(place)
    # A chat template writes the special tokens itself.
    tokens = tokenizer.encode(chat_prompt(place, prompt), special=False) if chat else tokenizer.encode(prompt)
    if not tokens:
        raise FeedError("prompt is empty, and the tokenizer begins a text with no token: expected a text")
    limit = decoder.config.context_length
    if limit is not None and len(tokens) >= limit:
        raise FeedError(
            f"prompt has {len(tokens)} tokens, and the context of {decoder.config.source} {limit}: expected a shorter one"
        )
    most = max_tokens or MAX_TOKENS
    capacity = len(tokens) + most if limit is None else min(len(tokens) + most, limit)
    return Generation(decoder.start(capacity=capacity), tokenizer, tokens, Sampler(rules), most)
