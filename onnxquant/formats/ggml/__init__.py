"""Formats of ggml: blocks, K-quants and ternary blocks, byte for byte.

They may import what formats may, and the rest of formats; the registry finds them.
"""
