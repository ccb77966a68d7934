"""A small network with BatchNormalization, and inputs of it."""

import numpy as np
import torch
from graphs import model, node, weight

X = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def network(**attributes):
    """Two convolutions with BatchNormalization, whose statistics are constants that others read too."""
    parts = [
        node("Conv", ["x", "first"], ["a"], name="first"),
        node("BatchNormalization", ["a", "one", "zero", "zero", "one"], ["b"], name="norm", **attributes),
        node("Clip", ["b", "least", "most"], ["c"]),
        node("Conv", ["c", "second"], ["d"], name="second"),
        node("BatchNormalization", ["d", "one", "zero", "zero", "one"], ["e"], name="last_norm"),
        node("Relu", ["e"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("Gemm", ["h", "head"], ["y"], name="head"),
    ]
    constants = {
        "first": weight(32, 2, 3, 3) * 8, "second": weight(32, 32, 3, 3, seed=1) * 4, "head": weight(32, 32, seed=2) * 4,
        "one": np.ones(32, np.float32), "zero": np.zeros(32, np.float32),
        "least": np.float32(0), "most": np.float32(2.5),
    }  # fmt: skip
    return model(parts, {"x": ("float32", ["batch", 2, 8, 8])}, {"y": "float32"}, constants)
