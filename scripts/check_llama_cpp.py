"""A decoder beside llama.cpp on the same GGUF file: perplexity of a text, divergence of logits, and greedy tokens.

    python scripts/check_llama_cpp.py model.gguf corpus.txt --tokens 51200       # needs llama-cpp-python

Windows of tokens, each from an empty cache; predictions from the second half of a window count, as in llama.cpp's own
perplexity tool. The decoder is converted twice: as it is, where products round activations to int8, as llama.cpp's do; and
with ``compute="float"``. Greedy texts are compared up to the first token that differs; there the difference of the two best
logits is printed, of llama.cpp's.

The exit code is 1 where a figure is outside its bounds, which are about twice what was measured (docs/benchmarks.md) and have
two sides: figures of no difference at all would mean that a decoder was not compared with another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from onnxquant import language

PROMPTS = (
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at",
    "The three laws of motion are", "In 1969,", "To bake bread you need", "Dear Sir or Madam,",
    "The largest planet of the solar system", "import numpy as np\n",
)  # fmt: skip
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Bounds:
    """The least and the largest value that a figure may have."""

    least: float
    most: float

    def misses(self, what: str, value: float) -> list[str]:
        """A sentence where a value is outside, or no number."""
        if self.least <= value <= self.most:
            return []
        return [f"{what} is {value:.5g}, expected {self.least:g} to {self.most:g}"]


@dataclass(frozen=True)
class Greedy:
    """A greedy text beside llama.cpp's.

    Attributes:
        same: number of equal tokens at the beginning.
        gap: difference of llama.cpp's two best logits where the next one differs; None: all are equal.
    """

    same: int
    gap: float | None

    def __str__(self) -> str:
        """The text's figures for people."""
        return (
            f"all {self.same} equal" if self.gap is None else f"{self.same} equal, then two logits {self.gap:.3f} apart"
        )


# Measured: ratios of perplexity 0.9947 and 0.9964, a divergence of 0.004, gaps of 0.01 to 0.33.
PERPLEXITY_RATIO, DIVERGENCE, GAP = Bounds(0.985, 1.015), Bounds(1e-5, 0.01), Bounds(0.0, 0.7)


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=5120)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--greedy", type=int, default=200, help="tokens after each prompt")
    arguments = parser.parse_args()
    window = arguments.window
    size = max(window, 512)
    model = llama_cpp.Llama(
        str(arguments.gguf), n_ctx=size, n_batch=size, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )
    ids = model.tokenize(arguments.text.read_bytes(), add_bos=False)[: arguments.tokens]
    windows = [ids[i : i + window] for i in range(0, len(ids) - window + 1, window)]
    if not windows:
        parser.error(f"{arguments.text} has {len(ids)} tokens; expected a window of {window} at least")
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        decoders = {}
        for name, compute in (("int8", "auto"), ("float", "float")):
            language.convert(arguments.gguf, Path(place) / name, compute=compute)
            decoders[name] = language.Decoder(Path(place) / name, threads=1)
        losses: dict[str, list[float]] = {"llama.cpp": [], **{name: [] for name in decoders}}
        divergence: dict[str, list[float]] = {name: [] for name in decoders}
        for tokens in windows:
            model.reset()
            model.eval(tokens)
            reference = log_probabilities(np.array(model.scores[: len(tokens)]))
            losses["llama.cpp"] += counted(reference, tokens)
            for name, decoder in decoders.items():
                logits = np.concatenate(list(decoder.start(capacity=window).logits(np.array([tokens]))), 1)[0]
                own = log_probabilities(logits)
                losses[name] += counted(own, tokens)
                divergence[name].append(float((np.exp(reference) * (reference - own)).sum(-1).mean()))
        first = float(np.exp(np.mean(losses["llama.cpp"])))
        print(f"{arguments.gguf.name}: {len(windows) * window} tokens, windows of {window}")
        print(f"llama.cpp {llama_cpp.__version__}: perplexity {first:.4f}")
        for name in decoders:
            perplexity = float(np.exp(np.mean(losses[name])))
            kl = float(np.mean(divergence[name]))
            print(f"{name}: perplexity {perplexity:.4f} ({perplexity / first - 1:+.3%}), KL {kl:.2e}")
            missed += PERPLEXITY_RATIO.misses(f"{name}: the ratio of perplexities", perplexity / first)
            missed += DIVERGENCE.misses(f"{name}: the mean KL divergence", kl)
        for prompt in PROMPTS if arguments.greedy else ():
            begin = model.tokenize(prompt.encode(), add_bos=False)
            texts = {"llama.cpp": greedy_llama_cpp(model, begin, arguments.greedy)}
            texts |= {name: greedy(decoder, begin, arguments.greedy) for name, decoder in decoders.items()}
            results = {name: compared(model, begin, texts["llama.cpp"], texts[name]) for name in decoders}
            print(repr(prompt), *(f"{name}: {result}" for name, result in results.items()), sep="; ")
            for name, result in results.items():
                if result.gap is not None:
                    missed += GAP.misses(f"{name}: {prompt!r}: the distance of two logits", result.gap)
    print(*missed or ["all figures are within their bounds"], sep="\n")
    return 1 if missed else 0


def log_probabilities(logits: Array) -> Array:
    """Logarithms of probabilities, float64, of logits [..., vocabulary]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(-1, keepdims=True)))


def counted(logs: Array, tokens: list[int]) -> list[float]:
    """Losses of the predictions that count: those from the second half of a window on."""
    places = np.arange(len(tokens) // 2 - 1, len(tokens) - 1)
    return [float(-logs[place, tokens[place + 1]]) for place in places]


def greedy_llama_cpp(model: llama_cpp.Llama, begin: list[int], count: int) -> list[int]:
    """The most probable tokens after others, by llama.cpp."""
    model.reset()
    model.eval(begin)
    out: list[int] = []
    while len(out) < count:
        out.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(out[-1:])
    return out


def greedy(decoder: language.Decoder, begin: list[int], count: int) -> list[int]:
    """The most probable tokens after others, by a decoder."""
    context = decoder.start(capacity=len(begin) + count)
    logits = context.read([begin])
    out = [int(logits[0].argmax())]
    while len(out) < count:
        out.append(int(context.read([out[-1:]])[0].argmax()))
    return out


def compared(model: llama_cpp.Llama, begin: list[int], expected: list[int], text: list[int]) -> Greedy:
    """A greedy text beside llama.cpp's, both after the same tokens."""
    same = next((i for i, (a, b) in enumerate(zip(expected, text, strict=True)) if a != b), len(expected))
    if same == len(expected):
        return Greedy(same, None)
    model.reset()
    model.eval([*begin, *expected[:same]])
    best = np.sort(model.scores[model.n_tokens - 1])[::-1]
    return Greedy(same, float(best[0] - best[1]))


if __name__ == "__main__":
    sys.exit(main())
