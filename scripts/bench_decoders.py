"""Decoders beside llama.cpp and onnxruntime-genai: tokens a second of a prompt and of the text after it, interleaved.

    python scripts/bench_decoders.py model.gguf [--threads 2]      # needs llama-cpp-python
    python scripts/bench_decoders.py made_up.gguf --make           # writes a llama of 1.1 B weights in q4_0 first
    python scripts/bench_decoders.py model.gguf --folder hf        # writes its floats as a Hugging Face folder, and ends
    python -m onnxruntime_genai.models.builder -m hf -o built -p int4 -e cpu --extra_options int4_accuracy_level=4
    python scripts/bench_decoders.py model.gguf --built built      # beside that folder, too; needs onnxruntime-genai

The GGUF file is converted as it is, for our operators; with ``--ort`` for those of onnxruntime alone as well. llama.cpp
reads the file itself. A built folder runs in onnxruntime-genai, and in our runner. Each round reads a prompt and then single
tokens, in all of them. Figures are medians of rounds: of processor time with one thread, else of the clock on the wall.
Ratios are medians of the rounds' ratios to the first. The first round does not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
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
from onnxquant.language.fields import JsonFiles
from onnxquant.language.names import Names
from onnxquant.language.tokenizers import write_tokenizer
from onnxquant.language.weights import Weights
from onnxquant.language.write_decoder import architecture_of

PROMPT, GENERATE = 128, 64
# Sizes of the made-up llama: those of TinyLlama 1.1 B.
LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, VOCABULARY = 22, 2048, 5632, 32, 4, 32000
Reader = Callable[[Sequence[int], bool], object]
"""Reads tokens; the second argument says whether they begin a text."""


def make(path: Path) -> None:
    """Write a llama of random weights in q4_0; layers have the same rows, each in an order of its own.

    onnxruntime keeps equal weights once, so that layers that were equal would be faster than any model's.
    """
    rng = np.random.default_rng(0)
    head = WIDTH // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH), "attn_k": (KV_HEADS * head, WIDTH), "attn_v": (KV_HEADS * head, WIDTH),
        "attn_output": (WIDTH, WIDTH), "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
    }  # fmt: skip

    def drawn(rows: int, cols: int) -> Any:  # noqa: ANN401 - an encoded weight
        return encode(rng.standard_normal((rows, cols), np.float32) / np.float32(cols**0.5), "q4_0")

    def turned(weight: Any, count: int) -> Any:  # noqa: ANN401
        planes = {name: np.roll(plane, count, axis=0) for name, plane in weight.planes.items()}
        return dataclasses.replace(weight, planes=planes)

    weights = {name: drawn(*shape) for name, shape in shapes.items()}
    ones = np.ones(WIDTH, np.float32)
    tensors: dict[str, Any] = {f"{name}.weight": drawn(VOCABULARY, WIDTH) for name in ("token_embd", "output")}
    tensors["output_norm.weight"] = ones
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": turned(weight, layer) for name, weight in weights.items()}
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


def write_floats(source: Path, folder: Path) -> None:
    """Write the numbers of a llama in a GGUF file as a Hugging Face folder of float16."""
    checkpoint = interchange.open_checkpoint(source)
    shape = architecture_of(checkpoint, JsonFiles(checkpoint.folder))
    base = float(shape.rotations[0].frequencies[1] ** (-shape.head_dim / 2))
    names = [Names.of((), shape, is_gguf=is_gguf) for is_gguf in (True, False)]
    weights = Weights(checkpoint, shape, names[0])
    width, inner, queries, keys = (
        shape.hidden_size, shape.intermediate_size, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim,
    )  # fmt: skip
    matrices = {
        "q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries),
        "gate": (inner, width), "up": (inner, width), "down": (width, inner),
    }  # fmt: skip
    tensors: dict[str, Any] = {}
    for layer, (part, size) in itertools.product(range(len(shape.layers)), matrices.items()):
        tensors[names[1].weight(part, layer)] = weights.matrix(part, *size, layer).floats().astype(np.float16)
    for layer, part in itertools.product(range(len(shape.layers)), ("attention_norm", "mlp_norm")):
        tensors[names[1].weight(part, layer)] = weights.vector(part, shape.hidden_size, layer).astype(np.float16)
    tensors[names[1].weight("norm")] = weights.vector("norm", shape.hidden_size).astype(np.float16)
    for part in ("embedding", "lm_head")[: 1 if shape.is_tied else 2]:
        values = weights.matrix(part, shape.vocabulary, shape.hidden_size).floats().astype(np.float16)
        tensors[names[1].weight(part)] = values
    folder.mkdir()
    write_tokenizer(checkpoint, folder)
    interchange.save(folder / "model.safetensors", tensors)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16", "hidden_act": "silu",
        "hidden_size": shape.hidden_size, "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": len(shape.layers),
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context_length, "rms_norm_eps": shape.epsilon, "vocab_size": shape.vocabulary,
        "rope_theta": base, "tie_word_embeddings": shape.is_tied,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


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


def of_genai(folder: Path, threads: int) -> Reader:
    """A folder of onnxruntime-genai's builder in onnxruntime-genai itself."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)
    settings = onnxruntime_genai.GeneratorParams(model)
    settings.set_search_options(max_length=PROMPT + GENERATE + 8, do_sample=False)
    generators: list[onnxruntime_genai.Generator] = []

    def read(tokens: Sequence[int], begins: bool) -> object:
        if begins:
            generators[:] = [onnxruntime_genai.Generator(model, settings)]
        generators[0].append_tokens([tokens])
        return generators[0].get_logits()

    return read


def main() -> int:
    """Command line; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--make", action="store_true", help="write the file first: a llama of random weights in q4_0")
    parser.add_argument(
        "--folder", type=Path, help="write the floats of the file as such a Hugging Face folder, and end"
    )
    parser.add_argument("--built", type=Path, help="a folder that onnxruntime-genai's builder made of it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ort", action="store_true", help="measure a file for operators of onnxruntime alone, too")
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.gguf)
    if arguments.folder:
        write_floats(arguments.gguf, arguments.folder)
        return 0
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory(dir=arguments.gguf.parent) as place:
        readers = {"llama.cpp": of_llama_cpp(arguments.gguf, arguments.threads)}
        for name, target in {
            "onnxquant": "auto",
            **({"onnxquant, target ort": "ort"} if arguments.ort else {}),
        }.items():
            folder = Path(place) / target
            language.convert(arguments.gguf, folder, target=target)
            readers[name] = of_onnxquant(folder, arguments.threads)
        if arguments.built:
            readers["onnxruntime-genai"] = of_genai(arguments.built, arguments.threads)
            readers["its folder, our runner"] = of_onnxquant(arguments.built, arguments.threads)
        seconds = measured(readers, arguments.rounds, clock)
    print(f"{arguments.gguf.name}, {arguments.threads} threads, llama-cpp-python {llama_cpp.__version__}")
    print(llama_cpp.llama_print_system_info().decode())
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        prompt, generation = (
            f"{count / median(part):7.1f} tokens/s, {median(a / b for a, b in zip(base, part, strict=True)):.2f}x"
            for count, base, part in zip((PROMPT, GENERATE), first, times, strict=True)
        )
        print(f"{name:24} prompt {prompt}; generation {generation}")
    return 0


def measured(readers: dict[str, Reader], rounds: int, clock: Callable[[], float]) -> dict[str, list[list[float]]]:
    """Seconds of the prompts and of the texts after them, by reader."""
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
    return seconds


if __name__ == "__main__":
    sys.exit(main())
