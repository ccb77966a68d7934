"""Speed and memory of making a decoder folder of a checkpoint.

    python scripts/bench_checkpoint.py --folder /a/disk                      # a llama of 7 B weights, 13.5 GB of float16
    python scripts/bench_checkpoint.py --folder /a/disk --layers 6           # 3 GB, all of them random
    python scripts/bench_checkpoint.py --source model.gguf --formats codes   # a checkpoint that is there, as it is

The made-up checkpoint is a folder of safetensors with an index, a file for each layer. ``--random`` of its layers and the
embeddings hold random numbers, others are holes of the disk: zeros, which take the same way through memory and encoders.
Each conversion runs in a process of its own, after its files were read once. Figures: GB of the source a second by the clock
and of processor time, the most anonymous memory above what the process had before, and seconds of processors in one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from bench_interchange import measured, touched

from onnxquant import language
from onnxquant.interchange.safetensors_header import header_of

# Sizes of Llama 2 7B.
WIDTH, HIDDEN, HEADS, VOCABULARY = 4096, 11008, 32, 32000
_HALF = np.dtype(np.float16)
# Numbers that random tensors are cut from.
_POOL = 1 << 25
# Name of the conversion that rounds nothing.
CODES = "codes"


def make(folder: Path, layers: int, random: int) -> None:
    """Write the checkpoint of a llama.

    Args:
        folder: the folder to make.
        layers: number of layers.
        random: number of layers that hold random numbers.
    """
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "torch_dtype": "float16", "tie_word_embeddings": False,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    pool = (rng.standard_normal(_POOL, np.float32) * np.float32(0.02)).astype(_HALF)
    table = (VOCABULARY, WIDTH)
    ends = {"model.embed_tokens.weight": table, "model.norm.weight": (WIDTH,), "lm_head.weight": table}
    places: dict[str, str] = {}
    for number, shapes in enumerate([ends, *map(_layer, range(layers))]):
        name = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        places |= dict.fromkeys(shapes, name)
        _write(folder / name, shapes, pool if number <= random else None, rng)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _layer(number: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's tensors."""
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH), "mlp.down_proj": (WIDTH, HIDDEN)}
    shapes |= {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    return {f"model.layers.{number}.{name}.weight": shape for name, shape in shapes.items()}


def _write(path: Path, shapes: dict[str, tuple[int, ...]], pool: np.ndarray | None, rng: np.random.Generator) -> None:
    """Write a file of safetensors: matrices of the pool's numbers, or holes; vectors of ones."""
    header = header_of({name: (_HALF, shape) for name, shape in shapes.items()}, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        at = len(header)
        for shape in shapes.values():
            size = int(np.prod(shape))
            file.seek(at)
            if len(shape) == 1:
                file.write(np.ones(size, _HALF).data)
            elif pool is not None:
                for begin in range(0, size, _POOL // 2):
                    first = int(rng.integers(_POOL // 2))
                    file.write(pool[first : first + min(_POOL // 2, size - begin)].data)
            at += size * _HALF.itemsize
        file.truncate(at)


@contextmanager
def _source(options: argparse.Namespace) -> Iterator[Path]:
    """The checkpoint that is converted, and goes again if it was made."""
    if options.source:
        yield options.source
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make(Path(folder) / "checkpoint", options.layers, options.random)
        yield Path(folder) / "checkpoint"


def _convert(source: Path, output: Path, form: str, target: str) -> None:
    language.convert(source, output, target=target, format=None if form == CODES else form)


def main() -> None:
    """Print a row for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a checkpoint that is there, in place of one that is made up")
    parser.add_argument("--folder", type=Path, help="folder for all files")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--random", type=int, default=6, help="layers that hold random numbers; others hold zeros")
    parser.add_argument("--formats", nargs="*", default=["int4", "q4_0", "q4_k"], help=f"{CODES}: nothing is rounded")
    parser.add_argument("--target", default="auto")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with _source(options) as source:
        output = (options.folder or source.parent) / "decoder_of_benchmark"
        for form in options.formats:
            usages = []
            for _ in range(options.rounds):
                size = touched(source) / 1e9
                usages.append(measured(partial(_convert, source, output, form, options.target)))
                shutil.rmtree(output)
            wall, processor = median(u.wall for u in usages), median(u.processor for u in usages)
            memory = median(u.anonymous for u in usages) / 1e6
            print(
                f"{size:.2f} GB to {form:6} {size / wall:5.2f} GB/s by the clock, {size / processor:5.2f} of processor time, "
                f"{memory:.0f} MB anonymous, {processor / wall:.2f} processors",
                flush=True,
            )


if __name__ == "__main__":
    main()
