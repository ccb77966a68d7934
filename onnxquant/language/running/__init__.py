"""Decoder folders at work: text, perplexity against an original, speed.

It may import interchange and every room below, no other module of language; the command line is above it.
"""

from onnxquant.language.running.decoder import Context, Decoder
from onnxquant.language.running.generate import Generation, GenerationSummary, generate

__all__ = ["Context", "Decoder", "Generation", "GenerationSummary", "generate"]
