"""Formats of bitsandbytes: NF4, FP4, dynamic 8 bits, LLM.int8.

They may import what formats may, and the rest of formats; the registry finds them.
"""
