"""Language models: a decoder's graph from a checkpoint, its tokenizer, and what it does: tokens, perplexity, speed.

It may import interchange and every room below; the command line, hub and batch are above it.
"""

from __future__ import annotations

from onnxquant.language.convert import convert
from onnxquant.language.quantize import dequantize, quantize
from onnxquant.language.running import (
    CacheReport,
    Context,
    Decoder,
    DecoderProfile,
    DecoderSpeed,
    Generation,
    GenerationSummary,
    LanguageProof,
    benchmark,
    generate,
    profile,
    quantize_cache,
    validate,
)
from onnxquant.language.write_decoder import DecoderReport

__all__ = [
    "CacheReport",
    "Context",
    "Decoder",
    "DecoderProfile",
    "DecoderReport",
    "DecoderSpeed",
    "Generation",
    "GenerationSummary",
    "LanguageProof",
    "benchmark",
    "convert",
    "dequantize",
    "generate",
    "profile",
    "quantize",
    "quantize_cache",
    "validate",
]
