"""Tiny decoders for tests: folders as onnxruntime-genai and Optimum lay them out, and the same function in float64 numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
from graphs import model, node, rng
from numpy.typing import NDArray

VOCABULARY, WIDTH, HEADS, HEAD, CONTEXT = 258, 64, 2, 32, 48
BEGIN, END = 256, 257
Array = NDArray[Any]


@dataclass(frozen=True)
class Weights:
    """Weights of one layer of attention, with one head of keys and values."""

    arrays: dict[str, Array]

    @classmethod
    def draw(cls, seed: int = 0) -> Weights:
        kv = HEAD
        shapes = {
            "embed": (VOCABULARY, WIDTH), "place": (CONTEXT, WIDTH), "q": (WIDTH, HEADS * HEAD), "k": (WIDTH, kv),
            "v": (WIDTH, kv), "o": (HEADS * HEAD, WIDTH), "head": (WIDTH, VOCABULARY),
        }  # fmt: skip
        draws = rng(seed)
        return cls({name: (draws.standard_normal(shape) * 0.25).astype(np.float32) for name, shape in shapes.items()})

    def noisy(self, scale: float) -> Weights:
        """The weights with noise on the head."""
        noise = rng(7).standard_normal(self.arrays["head"].shape) * scale
        return Weights({**self.arrays, "head": (self.arrays["head"] + noise).astype(np.float32)})

    def logits(self, tokens: Sequence[int]) -> Array:
        """Logits [length, vocabulary] of a text, without a cache."""
        w = {name: array.astype(np.float64) for name, array in self.arrays.items()}
        count = len(tokens)
        x = w["embed"][list(tokens)] + w["place"][:count]
        q = (x @ w["q"]).reshape(count, HEADS, HEAD).transpose(1, 0, 2)
        scores = q @ (x @ w["k"]).T / np.sqrt(HEAD)
        scores[:, np.triu(np.ones((count, count), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = (shares @ (x @ w["v"])).transpose(1, 0, 2).reshape(count, -1)
        return (x + mixed @ w["o"]) @ w["head"]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The most probable tokens after a prompt."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]


def shared_cache(weights: Weights) -> onnx.ModelProto:
    """The decoder with GroupQueryAttention, which takes the mask for the number of tokens."""
    attention = [
        node("ReduceSum", ["attention_mask", "axis"], ["sums"], keepdims=0),
        node("Sub", ["sums", "one"], ["last"]),
        node("Cast", ["last"], ["seqlens"], to=onnx.TensorProto.INT32),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", "one_index"], ["total_64"]),
        node("Cast", ["total_64"], ["total"], to=onnx.TensorProto.INT32),
        node(
            "GroupQueryAttention",
            ["q_out", "k_out", "v_out", "past_key_values.0.key", "past_key_values.0.value", "seqlens", "total"],
            ["mixed", "present.0.key", "present.0.value"],
            domain="com.microsoft", num_heads=HEADS, kv_num_heads=1,
        ),
    ]  # fmt: skip
    constants = {"axis": np.array([1]), "one": np.array([1]), "one_index": np.array(1)}
    made = _decoder(weights, attention, constants)
    made.opset_import.add(domain="com.microsoft", version=1)
    return made


def plain_cache(weights: Weights) -> onnx.ModelProto:
    """The decoder in standard operators, whose keys and values are joined to those of the past."""
    attention = [
        node("Reshape", ["q_out", "by_head"], ["q_split"]),
        node("Transpose", ["q_split"], ["queries"], perm=[0, 2, 1, 3]),
        node("Unsqueeze", ["k_out", "head_axis"], ["new_keys"]),
        node("Unsqueeze", ["v_out", "head_axis"], ["new_values"]),
        node("Concat", ["past_key_values.0.key", "new_keys"], ["present.0.key"], axis=2),
        node("Concat", ["past_key_values.0.value", "new_values"], ["present.0.value"], axis=2),
        node("Transpose", ["present.0.key"], ["keys_t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["queries", "keys_t"], ["products"]),
        node("Mul", ["products", "scale"], ["scores"]),
        node("Shape", ["scores"], ["total"], start=3, end=4),
        node("Shape", ["scores"], ["count"], start=2, end=3),
        node("Squeeze", ["total"], ["total_0"]),
        node("Range", ["zero", "total_0", "one"], ["slots"]),
        node("Sub", ["total", "count"], ["first"]),
        node("Slice", ["slots", "first", "total"], ["query_slots"]),
        node("Unsqueeze", ["query_slots", "head_axis"], ["rows"]),
        node("LessOrEqual", ["slots", "rows"], ["is_past"]),
        node("Cast", ["attention_mask"], ["is_token"], to=onnx.TensorProto.BOOL),
        node("Unsqueeze", ["is_token", "middle"], ["is_token_4"]),
        node("And", ["is_past", "is_token_4"], ["is_seen"]),
        node("Where", ["is_seen", "scores", "never"], ["kept_scores"]),
        node("Softmax", ["kept_scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "present.0.value"], ["by_heads"]),
        node("Transpose", ["by_heads"], ["by_place"], perm=[0, 2, 1, 3]),
        node("Reshape", ["by_place", "joined"], ["mixed"]),
    ]
    constants = {
        "by_head": np.array([0, 0, HEADS, HEAD]), "joined": np.array([0, 0, HEADS * HEAD]), "head_axis": np.array([1]),
        "middle": np.array([1, 2]), "zero": np.array(0), "one": np.array(1), "never": np.array(-1e9, np.float32),
        "scale": np.array(1 / np.sqrt(HEAD), np.float32),
    }  # fmt: skip
    return _decoder(weights, attention, constants)


def _decoder(weights: Weights, attention: Sequence[onnx.NodeProto], constants: dict[str, Array]) -> onnx.ModelProto:
    """A graph around attention from q_out, k_out, v_out to mixed."""
    parts = [
        node("Gather", ["embed", "input_ids"], ["words"], name="embed"),
        node("Gather", ["place", "position_ids"], ["places"], name="place"),
        node("Add", ["words", "places"], ["x"]),
        *(node("MatMul", ["x", name], [f"{name}_out"], name=name) for name in "qkv"),
        *attention,
        node("MatMul", ["mixed", "o"], ["changed"], name="o"),
        node("Add", ["x", "changed"], ["y"]),
        node("MatMul", ["y", "head"], ["logits"], name="head"),
    ]
    past = ["batch", 1, "past", HEAD]
    made = model(
        parts,
        {
            "input_ids": ("int64", ["batch", "length"]),
            "attention_mask": ("int64", ["batch", "total"]),
            "position_ids": ("int64", ["batch", "length"]),
            "past_key_values.0.key": ("float32", past),
            "past_key_values.0.value": ("float32", past),
        },
        {"logits": "float32", "present.0.key": "float32", "present.0.value": "float32"},
        {**weights.arrays, **constants},
    )
    sizes = {"logits": ["batch", "length", VOCABULARY], "present.0.key": ["batch", 1, "total", HEAD]}
    sizes["present.0.value"] = sizes["present.0.key"]
    for output in made.graph.output:
        for size in sizes[output.name]:
            dimension = output.type.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dimension.dim_value = size
            else:
                dimension.dim_param = size
    return made


def save_genai(folder: Path, proto: onnx.ModelProto, *, end: int = END) -> Path:
    """A folder as onnxruntime-genai's builder writes it."""
    names = {
        "inputs": {
            "input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
        },
    }  # fmt: skip
    decoder = {"filename": "model.onnx", "head_size": HEAD, "num_key_value_heads": 1, "num_hidden_layers": 1, **names}
    config = {
        "model": {
            "bos_token_id": BEGIN, "eos_token_id": end, "context_length": CONTEXT, "vocab_size": VOCABULARY,
            "type": "llama", "decoder": decoder,
        },
        "search": {},
    }  # fmt: skip
    folder.mkdir()
    onnx.save(proto, folder / "model.onnx")
    (folder / "genai_config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    return folder


def save_optimum(folder: Path, proto: onnx.ModelProto) -> Path:
    """A folder as Optimum writes it: nothing but names says what inputs are for."""
    config = {
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
    }
    folder.mkdir()
    onnx.save(proto, folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [END], "vocab_size": VOCABULARY}))
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A tokenizer whose tokens are bytes, and the files beside it."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(letters)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    made.save(str(folder / "tokenizer.json"))
    template = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    template += "{% if add_generation_prompt %} >{% endif %}"
    config = {"bos_token": {"content": "<s>"}, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
