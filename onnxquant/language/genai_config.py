"""``genai_config.json``: what onnxruntime-genai and our own runner know of a decoder folder."""

from __future__ import annotations

from onnxquant.json_data import JsonValue
from onnxquant.language.architecture import Architecture
from onnxquant.language.folder_names import INPUTS, MODEL, OUTPUTS, POSITION_IDS
from onnxquant.language.special_tokens import SpecialTokens

# Names of families in onnxruntime-genai, where they are not ours.
_TYPES = {"gemma3": "gemma3_text"}


def genai_config(architecture: Architecture, context_length: int, tokens: SpecialTokens) -> dict[str, JsonValue]:
    """The entries of ``genai_config.json``.

    Args:
        architecture: architecture of the decoder.
        context_length: positions that it holds.
        tokens: its special tokens.
    """
    eos: JsonValue = list(tokens.eos) if len(tokens.eos) != 1 else tokens.eos[0]
    pad = tokens.pad if tokens.pad is not None else next(iter(tokens.eos), 0)
    decoder: dict[str, JsonValue] = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": MODEL,
        "head_size": architecture.head_dim,
        "hidden_size": architecture.hidden_size,
        "inputs": {use: name for use, name in INPUTS.items() if use != POSITION_IDS},
        "outputs": {**OUTPUTS},
        "num_attention_heads": architecture.heads,
        "num_hidden_layers": len(architecture.layers),
        "num_key_value_heads": architecture.kv_heads,
    }
    return {
        "model": {
            "bos_token_id": tokens.bos if tokens.bos is not None else pad,
            "context_length": context_length,
            "decoder": decoder,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "type": _TYPES.get(architecture.family, architecture.family),
            "vocab_size": architecture.vocabulary,
        },
        "search": {
            "diversity_penalty": 0.0, "do_sample": False, "early_stopping": True, "length_penalty": 1.0,
            "max_length": context_length, "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1,
            "num_return_sequences": 1, "past_present_share_buffer": True, "repetition_penalty": 1.0, "temperature": 1.0,
            "top_k": 1, "top_p": 1.0,
        },
    }  # fmt: skip
