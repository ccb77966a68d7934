"""Compare greedy tokens of decoder folders with those of onnxruntime-genai on the same folders.

    python scripts/check_generation.py FOLDER ... [--tokens 64]

Needs onnxruntime-genai. Exit code 1 where a token differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnxruntime_genai

from onnxquant.language import Decoder

PROMPTS = ("The capital of France is", "def fibonacci(n):", "Die Katze sitzt auf")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    differing = 0
    for folder in arguments.folders:
        model = onnxruntime_genai.Model(str(folder))
        tokenizer = onnxruntime_genai.Tokenizer(model)
        decoder = Decoder(folder)
        for prompt in PROMPTS:
            tokens = [int(token) for token in tokenizer.encode(prompt)]
            theirs, ours = genai_greedy(model, tokens, arguments.tokens), greedy(decoder, tokens, arguments.tokens)
            equal = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), len(theirs))
            differing += equal < len(theirs)
            print(f"{folder}: {prompt!r}: {equal} of {len(theirs)} tokens are equal")
    return 1 if differing else 0


def genai_greedy(model: onnxruntime_genai.Model, prompt: list[int], count: int) -> list[int]:
    """The most probable tokens after a prompt, by onnxruntime-genai, which stops at the end of a text."""
    settings = onnxruntime_genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(prompt) + count, do_sample=False)
    generator = onnxruntime_genai.Generator(model, settings)
    generator.append_tokens([prompt])
    tokens: list[int] = []
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return tokens


def greedy(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    """The same by a decoder, which does not stop."""
    context = decoder.start(capacity=len(prompt) + count)
    logits, tokens = context.read([prompt]), []
    for _ in range(count):
        tokens.append(int(logits[0].argmax()))
        if len(tokens) < count:
            logits = context.read([tokens[-1:]])
    return tokens


if __name__ == "__main__":
    sys.exit(main())
