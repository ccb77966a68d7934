"""Schemes: the arrays that a tool stores a quantized weight in, in a safetensors file; one module each."""
