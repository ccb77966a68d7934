"""Decoder folders at work: text, perplexity against an original, speed.

It may import interchange, every room below, and what makes decoder folders; the command line is above it.
"""

from onnxquant.language.running.decoder import Context, Decoder
from onnxquant.language.running.generate import Generation, GenerationSummary, generate
from onnxquant.language.running.int8_cache import CacheReport, quantize_cache
from onnxquant.language.running.profile import DecoderProfile, profile
from onnxquant.language.running.proof import LanguageProof, validate
from onnxquant.language.running.speed import DecoderSpeed, benchmark

__all__ = [
    "CacheReport",
    "Context",
    "Decoder",
    "DecoderProfile",
    "DecoderSpeed",
    "Generation",
    "GenerationSummary",
    "LanguageProof",
    "benchmark",
    "generate",
    "profile",
    "quantize_cache",
    "validate",
]
