"""A decoder beside llama.cpp on the same GGUF file: perplexity of a text, divergence of logits, and greedy tokens.

    python scripts/check_llama_cpp.py model.gguf corpus.txt --tokens 51200            # needs llama-cpp-python
    python scripts/check_llama_cpp.py model.gguf corpus.txt --tokens 51200 --floats

Windows of tokens, each from an empty cache; the tokens of the second half of a window are predicted, as in llama.cpp's own
perplexity tool. Both read the file as it is, and round activations to int8, each in its own way; llama.cpp keeps keys and
values in 16 bits unless ``--cache f32``. With ``--floats`` both compute in float: llama.cpp reads the file's weights decoded
to float32, and the decoder is converted with ``compute="float"``. Greedy texts are compared up to the first token that
differs; there the difference of the two best logits is printed, of llama.cpp's.

The exit code is 1 where a figure is outside its bounds.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np

from onnxquant import language
from onnxquant.language.running.divergence import Comparison, Divergence

PROMPTS = (
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "Water boils at",
    "The three laws of motion are", "In 1969,", "To bake bread you need", "Dear Sir or Madam,",
    "The largest planet of the solar system", "import numpy as np\n",
)  # fmt: skip
# Types of llama.cpp's keys and values.
CACHES = {"f16": 1, "f32": 0}


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


# About twice what was measured (docs/benchmarks.md), with codes as they are: a ratio of perplexity of 0.9969, a divergence of
# 0.003, gaps of 0.01 to 0.33; and in float.
PERPLEXITY_RATIO, DIVERGENCE, GAP = Bounds(0.985, 1.015), Bounds(1e-5, 0.01), Bounds(0.0, 0.7)
FLOAT_RATIO, FLOAT_DIVERGENCE = Bounds(0.9999, 1.0001), Bounds(0.0, 1e-8)


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=5120)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--floats", action="store_true", help="both compute in float, on decoded weights")
    parser.add_argument("--cache", choices=CACHES, default="f16", help="llama.cpp's keys and values (--floats: f32)")
    parser.add_argument("--greedy", type=int, default=0, help="tokens after each prompt")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.gguf.parent) as place:
        source = arguments.gguf
        cache = "f32" if arguments.floats else arguments.cache
        if arguments.floats:
            source = decoded(source, Path(place) / "floats.gguf")
        size = max(arguments.window, 512)
        model = llama_cpp.Llama(
            str(source), n_ctx=size, n_batch=size, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
            type_k=CACHES[cache], type_v=CACHES[cache],
        )  # fmt: skip
        compute = "float" if arguments.floats else "auto"
        language.convert(arguments.gguf, Path(place) / "decoder", compute=compute)
        decoder = language.Decoder(Path(place) / "decoder", threads=1)
        ids = model.tokenize(arguments.text.read_bytes(), add_bos=False)[: arguments.tokens]
        print(f"{arguments.gguf.name}, compute {compute}; llama.cpp {llama_cpp.__version__}, cache {cache}")
        if len(ids) < arguments.window:
            parser.error(f"{arguments.text} has {len(ids)} tokens; expected a window of {arguments.window} at least")
        figures = diverged(model, decoder, ids, arguments.window)
        ratio, kl = (FLOAT_RATIO, FLOAT_DIVERGENCE) if arguments.floats else (PERPLEXITY_RATIO, DIVERGENCE)
        missed = ratio.misses("the ratio of perplexities", figures.perplexity_ratio.value)
        missed += kl.misses("the mean KL divergence", figures.kl.value)
        for prompt in PROMPTS if arguments.greedy else ():
            begin = model.tokenize(prompt.encode(), add_bos=False)
            expected = greedy_llama_cpp(model, begin, arguments.greedy)
            result = compared(model, begin, expected, greedy(decoder, begin, arguments.greedy))
            print(f"{prompt!r}: {result}")
            if result.gap is not None:
                missed += GAP.misses(f"{prompt!r}: the distance of two logits", result.gap)
    print(*missed or ["all figures are within their bounds"], sep="\n")
    return 1 if missed else 0


def decoded(source: Path, output: Path) -> Path:
    """A GGUF file with the weights of another one as float32, by llama.cpp itself."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.nthread = llama_cpp.LLAMA_FTYPE_ALL_F32, True, 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(options)):
        raise RuntimeError(f"{source}: llama.cpp does not decode it")
    return output


def diverged(model: llama_cpp.Llama, decoder: language.Decoder, ids: list[int], window: int) -> Divergence:
    """The divergence of the decoder from llama.cpp; it is printed with the speeds, so far, after every tenth window."""
    comparison, seconds = Comparison(), (0.0, 0.0)
    first = window // 2 + 1
    starts = range(0, len(ids) - window + 1, window)
    for count, start in enumerate(starts, 1):
        tokens = np.array(ids[start : start + window])
        begin = time.process_time()
        model.reset()
        model.eval(tokens.tolist())
        reference = np.array(model.scores[first - 1 : window - 1])
        middle = time.process_time()
        logits = np.concatenate(list(decoder.start(capacity=window).logits(tokens[None])), 1)[0, first - 1 : window - 1]
        seconds = seconds[0] + middle - begin, seconds[1] + time.process_time() - middle
        comparison.add(reference, logits, tokens[first:], first)
        if count % 10 == 0 or count == len(starts):
            figures = comparison.result()
            ratio = figures.perplexity_ratio
            theirs, ours = (count * window / spent for spent in seconds)
            print(
                f"{count * window} tokens: perplexity {figures.original_perplexity.value:.4f} in llama.cpp, "
                f"{figures.perplexity.value:.4f} here ({ratio.value - 1:+.3%} ± {ratio.error:.3%}); "
                f"KL {figures.kl.value:.2e}, same top token {figures.same_top.value:.2%}; "
                f"{theirs:.0f} and {ours:.0f} tokens/s",
                flush=True,
            )
    return comparison.result()


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
