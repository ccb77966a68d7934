"""Integer activations: where they are quantized, with which ranges, and what corrects their error.

It may import validation and every room below; ``convert`` and ``budget``'s siblings above it may import it.
"""
