"""Runs of the releases of onnxruntime: kernels, operators, and limits of attributes, as the releases themselves say."""
