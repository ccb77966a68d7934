"""Names in a decoder folder: its files, and the inputs and outputs of its graph."""

from __future__ import annotations

MODEL, GENAI = "model.onnx", "genai_config.json"
"""The graph, and its configuration for onnxruntime-genai."""
DATA = f"{MODEL}.data"
"""The values of the graph's weights."""
CONFIG, GENERATION = "config.json", "generation_config.json"
"""Configurations of transformers: of the model, and of the texts that it generates."""
TOKENIZER, TOKENIZER_CONFIG, PIECES = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"
"""The tokenizer, its configuration, and SentencePiece's file of it."""
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
"""Special tokens by their use, and ids of tokens that are no part of the vocabulary that was trained."""
CHAT_TEMPLATE, OLD_CHAT_TEMPLATE = "chat_template.jinja", "chat_template.json"
"""The template of a conversation, and the file that held it before."""
BESIDE_TOKENIZER = (SPECIAL_TOKENS, ADDED_TOKENS, CHAT_TEMPLATE, OLD_CHAT_TEMPLATE, GENERATION, PIECES)
"""Files that stand beside a tokenizer; the configuration of generation names ends of texts."""

INPUT_IDS, ATTENTION_MASK, POSITION_IDS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
"""Inputs and outputs of a graph, as transformers and onnxruntime-genai name them."""
PAST = {"key": "past_key_values.%d.key", "value": "past_key_values.%d.value"}
PRESENT = {"key": "present.%d.key", "value": "present.%d.value"}
"""Keys and values of earlier tokens, and those of all; %d is the layer."""
INPUTS = {
    INPUT_IDS: INPUT_IDS, ATTENTION_MASK: ATTENTION_MASK, POSITION_IDS: POSITION_IDS,
    "past_key_names": PAST["key"], "past_value_names": PAST["value"],
}  # fmt: skip
OUTPUTS = {LOGITS: LOGITS, "present_key_names": PRESENT["key"], "present_value_names": PRESENT["value"]}
"""Names of inputs and outputs by the fields of genai_config.json that say them."""


def is_file_of_decoder(name: str) -> bool:
    """Whether a name is one of the files of a decoder folder."""
    return name in (MODEL, DATA, GENAI, CONFIG, TOKENIZER, TOKENIZER_CONFIG, *BESIDE_TOKENIZER)
