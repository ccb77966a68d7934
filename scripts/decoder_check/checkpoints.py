"""Tiny checkpoints of every family of decoders: configurations as transformers writes them, and seeded random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from onnxquant import interchange

TOKENS = 96
FIXTURE = Path(__file__).resolve().parents[2] / "tests" / "data" / "decoder_logits.npz"
_COMMON: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": TOKENS, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
_GEMMA: dict[str, Any] = {
    "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "sliding_window": 8,
    "query_pre_attn_scalar": 24,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "smollm": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4, "rope_theta": 100000.0},
    "llama_biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "llama3": {
        "model_type": "llama", "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "llama_linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 8, "head_dim": 16},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2_window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "gemma2": {
        "model_type": "gemma2", **_GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text", **_GEMMA, "num_hidden_layers": 6, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "phi3": {"model_type": "phi3", "sliding_window": 12},
    "phi3_long": {
        "model_type": "phi3", "original_max_position_embeddings": 16, "partial_rotary_factor": 0.5, "hidden_size": 128,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        },
    },
}  # fmt: skip


def lengths_of(name: str) -> list[int]:
    """Tokens in each row of a batch; transformers turns all rows of phi3_long by the longest."""
    return [22, 22, 22, 22] if name == "phi3_long" else [22, 9, 17, 3]


def save_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint as one safetensors file and its config.json."""
    config = _COMMON | CONFIGS[name]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    tensors = {
        key: _drawn(rng, shape) * np.float32(3.0 if re.search("q_proj|k_proj|qkv_proj", key) else 1.0)
        for key, shape in tensors_of(config).items()
    }
    interchange.save(folder / "model.safetensors", tensors)
    return folder


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Weights whose products are about as large as what they multiply; those of one axis are about 1, or about 0."""
    values = rng.standard_normal(shape, np.float32)
    return values / np.float32(shape[-1] ** 0.5) if len(shape) > 1 else np.float32(0.5) + np.float32(0.3) * values


def tensors_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that transformers expects, by name."""
    kind, width, hidden = config["model_type"], config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim", width // heads)
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (config["vocab_size"], width)
    is_gemma = kind.startswith("gemma")
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if is_gemma else []
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        sizes = {"q": heads * head, "k": kv_heads * head, "v": kv_heads * head}
        products = {f"self_attn.{part}_proj": (size, width) for part, size in sizes.items()}
        products |= {"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width)}
        if kind == "phi3":
            products = {
                "self_attn.qkv_proj": (sum(sizes.values()), width), "mlp.gate_up_proj": (2 * hidden, width),
            }  # fmt: skip
        products |= {"self_attn.o_proj": (width, heads * head), "mlp.down_proj": (width, hidden)}
        for name, shape in products.items():
            out[f"{prefix}{name}.weight"] = shape
            is_attention = name.startswith("self_attn")
            if config.get("attention_bias" if is_attention else "mlp_bias") or (
                kind == "qwen2" and name[10:11] in "qkv" and is_attention
            ):
                out[f"{prefix}{name}.bias"] = shape[:1]
        out |= {f"{prefix}{norm}.weight": (width,) for norm in norms}
        if kind in ("qwen3", "gemma3_text"):
            out |= {f"{prefix}self_attn.{part}_norm.weight": (head,) for part in "qk"}
    return out
