"""Names that our files carry: the domain of our operators and the keys of our metadata entries; and new names."""

from __future__ import annotations

from collections.abc import Iterable

# The domain of our operators and of the functions that stand for them.
DOMAIN = "onnxquant"
# Beginnings of the names of our operators between integer activations, which have a number behind them, one for each body: a
# function of a code, a part of a network between codes and codes, and products that round their activation in each call.
MAP_CODES = "MapCodes"
INTEGER_NETWORK = "IntegerNetwork"
DYNAMIC_PRODUCTS = "DynamicProducts"
NUMBERED = (MAP_CODES, INTEGER_NETWORK, DYNAMIC_PRODUCTS)
# The domain of onnxruntime's own operators.
MICROSOFT = "com.microsoft"
# The domain of ONNX's operators of classical machine learning.
CLASSICAL = "ai.onnx.ml"

# Entries of a model: what became of its weights, what it was made of, how samples become its inputs, the hashes of its
# tensors, and that of these entries.
METADATA = "onnxquant"
ORIGIN = "onnxquant.origin"
PREPARATION = "onnxquant.samples"
HASHES = "onnxquant.sha256"
SEAL = "onnxquant.metadata_sha256"

# Entries of a node: the weight it was made for, and the operator of a node that rounds an activation.
SITE = "onnxquant.site"
ACTIVATION = "onnxquant.activation"


# A name that new ones are made from may be as long as a page: they begin like it.
_LONGEST_BASE = 200


class NameAllocator:
    """Makes names that nothing has yet.

    Args:
        taken: the names in use.

    >>> names = NameAllocator({"x", "x_2"})
    >>> names.fresh("x"), names.fresh("y")
    ('x_3', 'y')
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def fresh(self, base: str) -> str:
        """A new name: ``base`` itself, or its beginning where it is very long, with a number behind it where it is taken."""
        base = base[:_LONGEST_BASE]
        candidate, n = base, 1
        while candidate in self._taken:
            n += 1
            candidate = f"{base}_{n}"
        self._taken.add(candidate)
        return candidate
