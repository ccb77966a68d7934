"""Profiles of decoder folders side by side: where the time of a prompt goes, and that of each token after it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError
from onnxquant.graph.io import load
from onnxquant.inspect.operator_times import ModelProfile, TimedRuns, operator_times
from onnxquant.inspect.profile import run_clock
from onnxquant.language.running.decoder import Decoder
from onnxquant.language.running.speed import GENERATE, PROMPT, check_numbers, random_tokens
from onnxquant.runtime import Run

# Rounds at most, where no number is asked for, and at least; seconds after which these are enough.
_MOST, _FEWEST, _ENOUGH = 20, 5, 30.0


@dataclass(frozen=True)
class DecoderProfile:
    """The profile of one folder.

    Attributes:
        prompt: the time in which it reads a prompt.
        token: the time in which it reads one token after it.
    """

    prompt: ModelProfile
    token: ModelProfile


@dataclass
class _Timed:
    """A decoder whose runs are timed: seconds of the prompts, and of each token after them."""

    decoder: Decoder
    prompts: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def round(self, ids: Sequence[int], count: int, clock: Callable[[], float]) -> None:
        """Read a prompt, and generate tokens after it."""
        context = self.decoder.start(capacity=len(ids) + count)
        begin = clock()
        token = int(context.read([ids]).argmax())
        self.prompts.append(max(clock() - begin, 1e-9))
        for _ in range(count - 1):
            begin = clock()
            logits = context.read([[token]])
            self.tokens.append(max(clock() - begin, 1e-9))
            token = int(logits.argmax())


@checked
def profile(
    *folders: str | Path,
    prompt: int = PROMPT,
    generate: int = GENERATE,
    rounds: int | None = None,
    threads: int | None = None,
) -> list[DecoderProfile]:
    """The time of decoders by operator and by node: of a prompt, and of each token after it.

    Args:
        folders: decoder folders.
        prompt: number of tokens of the prompt, which are random.
        generate: number of tokens of the text.
        rounds: number of rounds, each of which reads the prompt and generates the text; None: those of half a minute.
        threads: number of threads; None: one.

    Raises:
        RecipeError: no folder is given, or a number is out of range.
        ModelError: a folder is damaged.
        FeedError: a context is too small.
    """
    if not folders:
        raise RecipeError("profile takes at least one decoder folder")
    threads = 1 if threads is None else threads
    check_numbers(prompt, generate, rounds, threads)
    clock, paths = run_clock(threads), [Path(folder) for folder in folders]
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as root:
        plain, watched = list[_Timed](), list[_Timed]()
        for path in paths:
            folder = Path(tempfile.mkdtemp(dir=root))
            plain.append(_Timed(Decoder(path, threads=threads, spinning=False)))
            watched.append(_Timed(Decoder(path, threads=threads, spinning=False, trace=folder)))
        ids = random_tokens(min(timed.decoder.vocabulary or 1 for timed in plain), prompt)
        _in_rounds([one for pair in zip(plain, watched, strict=True) for one in pair], ids, generate, clock, rounds)
        return [_profile(*pair, prompt, threads) for pair in zip(plain, watched, strict=True)]


def _in_rounds(
    decoders: Sequence[_Timed], ids: Sequence[int], count: int, clock: Callable[[], float], rounds: int | None
) -> None:
    """Run decoders in turns; the first round is a warm-up."""
    begin = time.perf_counter()
    for done in range(1 + (rounds or _MOST)):
        if rounds is None and done > _FEWEST and time.perf_counter() - begin > _ENOUGH:
            return
        for decoder in decoders:
            decoder.round(ids, count, clock)


def _profile(plain: _Timed, watched: _Timed, prompt: int, threads: int) -> DecoderProfile:
    """The profile of a decoder, without the first round."""
    trace = watched.decoder.end_trace()
    rounds = len(watched.prompts)
    tokens = len(watched.tokens) // rounds
    prompts, singles = _parts(trace.runs, len(trace.runs) // rounds, tokens)
    name, proto = str(plain.decoder.folder), load(plain.decoder.config.model).proto
    of_prompt = TimedRuns(plain.prompts[1:], watched.prompts[1:], prompts[1:])
    of_token = TimedRuns(plain.tokens[tokens:], watched.tokens[tokens:], singles[tokens:])
    return DecoderProfile(
        replace(operator_times(proto, trace.graph, of_prompt, threads, name), part=f"a prompt of {prompt} tokens"),
        replace(operator_times(proto, trace.graph, of_token, threads, name), part=f"one token after {prompt} and more"),
    )


def _parts(runs: Sequence[Run], of_round: int, tokens: int) -> tuple[list[Run], list[Run]]:
    """Prompts, each of which may have been read in several runs, and single tokens.

    Args:
        runs: all runs.
        of_round: number of runs in a round.
        tokens: number of single tokens in a round.
    """
    prompts, singles = list[Run](), list[Run]()
    for begin in range(0, len(runs) - of_round + 1, of_round):
        pieces, rest = runs[begin : begin + of_round - tokens], runs[begin + of_round - tokens : begin + of_round]
        prompts.append(Run(sum(r.seconds for r in pieces), tuple(call for r in pieces for call in r.calls)))
        singles.extend(rest)
    return prompts, singles
