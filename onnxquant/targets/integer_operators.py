"""Our operators between integer activations: parts of networks, functions of a code outside of these, dynamic products."""

from __future__ import annotations

import onnx

from onnxquant.graph.io import Document
from onnxquant.targets.code_maps import add_code_maps, expand_code_maps
from onnxquant.targets.dynamic_products import add_dynamic_products, expand_dynamic_products
from onnxquant.targets.integer_networks import add_integer_networks, expand_integer_networks


def add_integer_operators(proto: onnx.ModelProto, document: Document) -> None:
    """Put our operators in the place of the nodes that they stand for, in place.

    Args:
        proto: a model with integer activations.
        document: the document that it was made from, which has the values of its constants.
    """
    add_integer_networks(proto)
    add_code_maps(proto)
    add_dynamic_products(proto, document)


def expand_integer_operators(proto: onnx.ModelProto) -> None:
    """Put the nodes back that our operators stand for, in place."""
    expand_integer_networks(proto)
    expand_code_maps(proto)
    expand_dynamic_products(proto)
