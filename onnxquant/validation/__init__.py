"""The proof: structure, weights and outputs of a quantized model against its original and its dense twin.

It may import artifact and every room below; budget, activations and the rooms above may import it.
"""
