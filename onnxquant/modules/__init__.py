"""ONNX graphs as torch modules: each node is a function of torch, so that gradients reach the model's weights.

Everything here needs torch, the extra ``train``. It may import graphs and numerics, and nothing that knows formats: rounding
to codes comes from the room ``tuning``, which puts modules of its own in the place of weights and nodes.
"""
