"""Speed and memory of decoder folders side by side: tokens a second of a prompt and of the text after it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError
from onnxquant.graph.io import load
from onnxquant.json_data import from_json, to_object
from onnxquant.language.folder_names import TOKENIZER
from onnxquant.language.running.decoder import Decoder
from onnxquant.language.running.text import TextTokenizer
from onnxquant.validation.footprint import in_own_process, memory
from onnxquant.validation.latency import Interval, interval_of_median, processor_clock, spread_of

PROMPT, GENERATE = 128, 64
# Rounds before an interval is sure enough to stop, and at most.
_FEWEST, _MOST = 7, 100
# The median of fewer values lies outside all of them more often than once in 20 times.
FEWEST_ROUNDS = 6
# Seconds after which as many rounds are enough.
_ENOUGH = ((60.0, 5), (240.0, 3))
_WARM_UP = 2


@dataclass(frozen=True)
class DecoderMemory:
    """Cost of loading and running a decoder in a process that does nothing else.

    Attributes:
        load_seconds: time until it is ready.
        resident_bytes: resident memory after a prompt and a text, mapped files included, without that of Python.
    """

    load_seconds: float
    resident_bytes: int


@dataclass(frozen=True)
class DecoderSpeed:
    """Figures of one folder.

    Attributes:
        folder: the folder.
        bytes: size of its graph and data.
        size_ratio: bytes of the first folder over those of this one.
        prompt_speed: tokens of the prompt a second.
        prompt_ratio: that over the first folder's, the median of the rounds' ratios.
        prompt_interval: interval that holds ``prompt_ratio`` 19 times of 20; None: there were too few rounds to say.
        speed: tokens of the text a second, after the first one.
        ratio: that over the first folder's.
        interval: interval that holds ``ratio`` 19 times of 20.
        first_token_seconds: time from the prompt to the first token.
        load_seconds: time until it is ready, in a process of its own.
        resident_bytes: resident memory after a round, in that process.
        prompt_tokens: tokens of the prompt.
        tokens: tokens of the text.
        rounds: number of rounds.
        threads: number of threads.
        clock: ``processor`` time where there is one thread, which other processes do not add to; else ``wall``.
        spread: distance between the quartiles of the rounds of ``ratio``, as a part of it.
        differs: the words in which its tokens differ from those of the first folder; None where they are the same.
    """

    folder: str
    bytes: int
    size_ratio: float
    prompt_speed: float
    prompt_ratio: float
    prompt_interval: Interval | None
    speed: float
    ratio: float
    interval: Interval | None
    first_token_seconds: float
    load_seconds: float
    resident_bytes: int
    prompt_tokens: int
    tokens: int
    rounds: int
    threads: int
    clock: str
    spread: float
    differs: str | None = None


@dataclass(frozen=True)
class _Run:
    """A measurement: tokens of the prompt and of the text, threads."""

    prompt: int
    generate: int
    threads: int


@dataclass
class _Rounds:
    """Seconds of the rounds of one folder: of the prompt, and of each later token."""

    prompt: list[float]
    token: list[float]


@checked
def benchmark(
    *folders: str | Path,
    prompt: int = PROMPT,
    generate: int = GENERATE,
    rounds: int | None = None,
    threads: int | None = None,
    library: bool = True,
) -> list[DecoderSpeed]:
    """Speed and memory of decoder folders, their rounds interleaved; one row each.

    Args:
        folders: decoder folders; ratios refer to the first.
        prompt: number of tokens of the prompt, which are random.
        generate: number of tokens of the text.
        rounds: number of rounds; None: as many as make the ratios certain.
        threads: number of threads; None: one, whose processor time is certain.
        library: operators of onnxquant run on its compiled library.

    Raises:
        RecipeError: no folder is given, or a number is out of range.
        ModelError: a folder is damaged.
        FeedError: a context is too small.
    """
    if not folders:
        raise RecipeError("benchmark takes at least one decoder folder")
    threads = 1 if threads is None else threads
    check_numbers(prompt, generate, rounds, threads)
    paths = [Path(folder) for folder in folders]
    decoders = [Decoder(path, threads=threads, library=library, spinning=False) for path in paths]
    ids = random_tokens(min([decoder.vocabulary or 1 for decoder in decoders]), prompt)
    clock = processor_clock(1) if threads == 1 else time.perf_counter
    timed = _interleaved(decoders, ids, generate, clock, rounds)
    costs = [_own_memory(path, prompt, generate, threads, library=library) for path in paths]
    sizes = [load(decoder.config.model).size() for decoder in decoders]
    run = _Run(prompt, generate, threads)
    rows = [
        _row(run, str(path), (sizes[0], size), (timed[0], measured), cost)
        for path, size, measured, cost in zip(paths, sizes, timed, costs, strict=True)
    ]
    return [
        replace(row, differs=_difference(decoders[0], decoder)) for row, decoder in zip(rows, decoders, strict=True)
    ]


def check_numbers(prompt: int, generate: int, rounds: int | None, threads: int) -> None:
    """Refuse numbers with which nothing can be measured.

    Raises:
        RecipeError: one is out of range.
    """
    numbers = (("prompt", prompt, 1), ("generate", generate, 2), ("rounds", rounds, 1), ("threads", threads, 1))
    for name, count, least in numbers:
        if count is not None and count < least:
            raise RecipeError(f"{name} is {count}, expected at least {least}")


def _row(
    run: _Run, folder: str, sizes: tuple[int, int], rounds: tuple[_Rounds, _Rounds], cost: DecoderMemory
) -> DecoderSpeed:
    """The figures of a folder.

    Args:
        run: the measurement.
        folder: the folder.
        sizes: bytes of the first folder and of this one.
        rounds: rounds of the first folder and of this one.
        cost: load time and memory of this one.
    """
    (first_size, size), (first, measured) = sizes, rounds
    by_prompt, by_token = _ratios(first.prompt, measured.prompt), _ratios(first.token, measured.token)
    return DecoderSpeed(
        folder=folder,
        bytes=size,
        size_ratio=first_size / size,
        prompt_speed=run.prompt / median(measured.prompt),
        prompt_ratio=median(by_prompt),
        prompt_interval=_interval(by_prompt),
        speed=1 / median(measured.token),
        ratio=median(by_token),
        interval=_interval(by_token),
        first_token_seconds=median(measured.prompt),
        load_seconds=cost.load_seconds,
        resident_bytes=cost.resident_bytes,
        prompt_tokens=run.prompt,
        tokens=run.generate,
        rounds=len(measured.token),
        threads=run.threads,
        clock="processor" if run.threads == 1 else "wall",
        spread=spread_of(by_token),
    )


def _interleaved(
    decoders: Sequence[Decoder], ids: Sequence[int], count: int, clock: Callable[[], float], most: int | None
) -> list[_Rounds]:
    """Rounds of decoders in turns, so many, or until the ratios to the first are certain."""
    rounds = [_Rounds([], []) for _ in decoders]
    for decoder in decoders:
        _round(decoder, ids, _WARM_UP, clock)
    begin = time.perf_counter()
    while True:
        for decoder, measured in zip(decoders, rounds, strict=True):
            prompt, token = _round(decoder, ids, count, clock)
            measured.prompt.append(prompt)
            measured.token.append(token)
        done, passed = len(rounds[0].token), time.perf_counter() - begin
        if most is not None and done < most:
            continue
        if done >= (most or _MOST) or any(passed > limit and done >= fewest for limit, fewest in _ENOUGH):
            return rounds
        if done >= _FEWEST and all(
            interval_of_median(_ratios(rounds[0].token, r.token)).is_narrow
            and interval_of_median(_ratios(rounds[0].prompt, r.prompt)).is_narrow
            for r in rounds
        ):
            return rounds


def _round(decoder: Decoder, ids: Sequence[int], count: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the prompt with the first token, and of each later token."""
    context = decoder.start(capacity=len(ids) + count)
    begin = clock()
    token = int(context.read([ids]).argmax())
    first = clock()
    for _ in range(count - 1):
        token = int(context.read([[token]]).argmax())
    return max(first - begin, 1e-9), max(clock() - first, 1e-9) / (count - 1)


def _interval(ratios: Sequence[float]) -> Interval | None:
    """The interval of a median, where there are values enough for one."""
    return interval_of_median(ratios) if len(ratios) >= FEWEST_ROUNDS else None


def _difference(first: Decoder, other: Decoder) -> str | None:
    """The words in which tokens of two decoders differ."""
    if first.vocabulary != other.vocabulary:
        return f"has {other.vocabulary} tokens in its vocabulary, {first.folder} has {first.vocabulary}"
    files = [decoder.folder / TOKENIZER for decoder in (first, other)]
    if not all(file.is_file() for file in files) or files[0].read_bytes() == files[1].read_bytes():
        return None
    tokens = [TextTokenizer(file.parent).tokens() for file in files]
    return None if tokens[0] == tokens[1] else f"has another tokenizer than {first.folder}"


def _ratios(first: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(first, other, strict=True)]


def random_tokens(vocabulary: int, count: int) -> list[int]:
    """Tokens of a prompt."""
    return [int(token) for token in np.random.default_rng(0).integers(0, vocabulary, count)]


def _own_memory(path: Path, prompt: int, generate: int, threads: int, *, library: bool) -> DecoderMemory:
    """The cost of loading and running a decoder, in a process of its own."""
    settings = json.dumps({"prompt": prompt, "generate": generate, "threads": threads, "library": library})
    return from_json(DecoderMemory, json.loads(in_own_process(__name__, path, settings)))


def main(path: str, settings: str) -> None:
    """Load and run one decoder, and print its cost as JSON.

    Args:
        path: the folder.
        settings: the prompt's tokens, those of the text, threads, and whether the library is used, as JSON.
    """
    chosen: Mapping[str, int] = json.loads(settings)
    before = memory()
    begin = time.perf_counter()
    decoder = Decoder(path, threads=chosen["threads"], library=bool(chosen["library"]))
    seconds = time.perf_counter() - begin
    _round(decoder, random_tokens(decoder.vocabulary or 1, chosen["prompt"]), chosen["generate"], time.perf_counter)
    after = memory()
    print(json.dumps(to_object(DecoderMemory(seconds, sum(after.values()) - sum(before.values())))))
