"""Sessions of onnxruntime; no other room imports onnxruntime.

It may import native, graph, formats and numerics; solvers, targets and the rooms above may import it.
"""
