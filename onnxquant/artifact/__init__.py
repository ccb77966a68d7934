"""A quantized file: writing what a plan decided, what the file says of itself, and reading it back.

It may import plan and every room below; validation and the rooms above it may import it.
"""
