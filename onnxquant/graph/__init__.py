"""An ONNX graph in memory: reading, writing, editing and analysing it.

It may import numerics; native and the rooms above it may import it.
"""
