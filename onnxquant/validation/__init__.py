"""The proof: structure, weights and outputs of a quantized model against its original and the dense twin."""
