"""Functions of operators by family, which fill the table of ``modules.node``. They import it, and some of each other."""

from onnxquant.modules.operators import (
    attention,
    convolution,
    elementwise,
    filling,
    indexing,
    layout,
    normalization,
    padding,
    products,
    quantized,
    recurrent,
    reduction,
    resize,
    rotation,
)

__all__ = [
    "attention",
    "convolution",
    "elementwise",
    "filling",
    "indexing",
    "layout",
    "normalization",
    "padding",
    "products",
    "quantized",
    "recurrent",
    "reduction",
    "resize",
    "rotation",
]
