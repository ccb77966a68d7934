"""Decoder folders at work: text, perplexity against an original, speed.

It may import interchange and every room below, no other module of language; the command line is above it.
"""

from onnxquant.language.running.decoder import Context, Decoder
from onnxquant.language.running.generate import Generation, GenerationSummary, generate
from onnxquant.language.running.proof import LanguageProof, validate
from onnxquant.language.running.speed import DecoderSpeed, benchmark

__all__ = [
    "Context",
    "Decoder",
    "DecoderSpeed",
    "Generation",
    "GenerationSummary",
    "LanguageProof",
    "benchmark",
    "generate",
    "validate",
]
