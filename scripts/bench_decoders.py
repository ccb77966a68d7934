"""Decoders beside llama.cpp: tokens a second of a prompt and of the text after it, in one interleaved run.

    python scripts/bench_decoders.py model.gguf [--threads 2]      # needs llama-cpp-python
    python scripts/bench_decoders.py made_up.gguf --make           # writes a llama of 1.1 B weights in q4_0 first

The GGUF file is converted as it is, for our operators; with ``--ort`` for those of onnxruntime alone as well. llama.cpp
reads the file itself. Each round reads a prompt and then single tokens, in all of them. Figures are medians of rounds: of
processor time with one thread, else of the clock on the wall. The first round does not count.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

from onnxquant import encode, interchange, language

PROMPT, GENERATE = 128, 64
# Sizes of the made-up llama: those of TinyLlama 1.1 B.
LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, VOCABULARY = 22, 2048, 5632, 32, 4, 32000
Reader = Callable[[Sequence[int], bool], object]
"""Reads tokens; the second argument says whether they begin a text."""


def make(path: Path) -> None:
    """Write a llama of random weights in q4_0; layers have the same weights, each of its own in the file."""
    rng = np.random.default_rng(0)
    head = WIDTH // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH), "attn_k": (KV_HEADS * head, WIDTH), "attn_v": (KV_HEADS * head, WIDTH),
        "attn_output": (WIDTH, WIDTH), "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
    }  # fmt: skip

    def drawn(rows: int, cols: int) -> Any:  # noqa: ANN401 - an encoded weight
        return encode(rng.standard_normal((rows, cols), np.float32) / np.float32(cols**0.5), "q4_0")

    weights = {name: drawn(*shape) for name, shape in shapes.items()}
    ones = np.ones(WIDTH, np.float32)
    tensors: dict[str, Any] = {f"{name}.weight": drawn(VOCABULARY, WIDTH) for name in ("token_embd", "output")}
    tensors["output_norm.weight"] = ones
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": weight for name, weight in weights.items()}
        tensors |= {f"blk.{layer}.{name}.weight": ones for name in ("attn_norm", "ffn_norm")}
    entries = {
        "block_count": LAYERS, "context_length": 2048, "embedding_length": WIDTH, "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": head, "rope.freq_base": 10000.0, "vocab_size": VOCABULARY,
    }  # fmt: skip
    begin = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = begin + [f"token{i}" for i in range(VOCABULARY - len(begin))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - len(begin))
    metadata: dict[str, Any] = {
        "general.architecture": "llama", **{f"llama.{name}": value for name, value in entries.items()},
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.scores": [0.0] * VOCABULARY, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip
    interchange.save(path, tensors, metadata=metadata)


def of_llama_cpp(path: Path, threads: int) -> Reader:
    """llama.cpp on a GGUF file."""
    model = llama_cpp.Llama(
        str(path), n_ctx=PROMPT + GENERATE + 8, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def read(tokens: Sequence[int], begins: bool) -> object:
        if begins:
            model.reset()
        return model.eval(tokens)

    return read


def of_onnxquant(folder: Path, threads: int) -> Reader:
    """A decoder folder on onnxruntime."""
    decoder = language.Decoder(folder, threads=threads)
    contexts: list[language.Context] = []

    def read(tokens: Sequence[int], begins: bool) -> object:
        if begins:
            contexts[:] = [decoder.start(capacity=PROMPT + GENERATE + 8)]
        return contexts[0].read([tokens])

    return read


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--make", action="store_true", help="write the file first: a llama of random weights in q4_0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ort", action="store_true", help="measure a file for operators of onnxruntime alone, too")
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.gguf)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory(dir=arguments.gguf.parent) as place:
        readers = {"llama.cpp": of_llama_cpp(arguments.gguf, arguments.threads)}
        for name, target in {"onnxquant": "auto", **({"onnxquant, target ort": "ort"} if arguments.ort else {})}.items():
            folder = Path(place) / target
            language.convert(arguments.gguf, folder, target=target)
            readers[name] = of_onnxquant(folder, arguments.threads)
        speeds = measured(readers, arguments.rounds, clock)
    print(f"{arguments.gguf.name}, {arguments.threads} threads, llama-cpp-python {llama_cpp.__version__}")
    print(llama_cpp.llama_print_system_info().decode())
    first = speeds["llama.cpp"]
    for name, (prompt, generation) in speeds.items():
        ratios = f"{prompt / first[0]:.2f}x, {generation / first[1]:.2f}x"
        print(f"{name:24} prompt {prompt:7.1f} tokens/s, generation {generation:6.1f} tokens/s: {ratios}")
    return 0


def measured(readers: dict[str, Reader], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Tokens a second of the prompt and of the text after it, by reader."""
    rng = np.random.default_rng(0)
    prompt, text = (rng.integers(10, 30000, count).tolist() for count in (PROMPT, GENERATE))
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in readers}
    for number in range(rounds + 1):
        for name, read in readers.items():
            begin = clock()
            read(prompt, True)
            middle = clock()
            for token in text:
                read([token], False)
            if number:
                seconds[name][0].append(middle - begin)
                seconds[name][1].append(clock() - middle)
    counts = (PROMPT, GENERATE)
    return {
        name: [count / median(part) for count, part in zip(counts, parts, strict=True)] for name, parts in seconds.items()
    }


if __name__ == "__main__":
    sys.exit(main())
