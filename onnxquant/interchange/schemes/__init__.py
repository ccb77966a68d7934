"""Schemes: the arrays that a tool stores a quantized weight in, in a safetensors file; one module each.

They may import the tensor and formats; the container of safetensors alone imports them.
"""
