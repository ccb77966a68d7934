"""Language models: a decoder's graph around the weights of a checkpoint, its tokenizer, and what it does: tokens, perplexity.

It may import interchange and every room below; the command line, hub and batch are above it.
"""
