"""Tokenizers of decoder folders, written from the metadata of GGUF files and from the files of Hugging Face checkpoints.

What is written is the pair tokenizer.json and tokenizer_config.json that the package tokenizers and onnxruntime-genai
read. Writing needs neither. It may import interchange and every room below; what makes decoder folders is above it.
"""

from __future__ import annotations

from onnxquant.language.tokenizers.tokenizer import TokenizerFacts
from onnxquant.language.tokenizers.write import has_tokenizer, write_tokenizer

__all__ = ["TokenizerFacts", "has_tokenizer", "write_tokenizer"]
