"""Nodes that draw random numbers, and seeds for them, without which two runs of one model differ."""

from __future__ import annotations

import re
import zlib

import onnx
import onnx.inliner

from onnxquant.graph.traverse import nodes, nodes_of_function, replace_field

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


# What onnx's inliner adds to the names of a function, in each place that calls it.
_CALL = re.compile(r"(__\d+)+$")


def unseeded(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that draw other numbers in each session, as far as one can tell without the calls of functions."""
    return [node for node in nodes(proto) if _draws(node) and not _has_own_seed(node)]


def add_seeds(proto: onnx.ModelProto) -> None:
    """Give every node that draws random numbers a seed, the same one in every model that calls its output the same.

    A node of a function has the same seed in every place into which the function is inlined. A function that takes a seed as
    its attribute is inlined, as a call may leave the attribute out.
    """
    while keys := [(f.domain, f.name) for f in proto.functions if any(map(_refers_to_seed, nodes_of_function(f)))]:
        try:
            inlined = onnx.inliner.inline_selected_functions(proto, keys)
        except RuntimeError:  # functions that the inliner cannot take stay
            break
        replace_field(inlined.functions, [f for f in inlined.functions if (f.domain, f.name) not in keys])
        proto.CopyFrom(inlined)
    for node in unseeded(proto):
        if not _refers_to_seed(node):
            seed = float(zlib.crc32(_CALL.sub("", node.output[0]).encode()) % (1 << 20))  # float32 holds it exactly
            node.attribute.append(onnx.helper.make_attribute("seed", seed))


def _draws(node: onnx.NodeProto) -> bool:
    return node.op_type in RANDOM_OPS and not node.domain


def _has_own_seed(node: onnx.NodeProto) -> bool:
    return any(a.name == "seed" and not a.ref_attr_name for a in node.attribute)


def _refers_to_seed(node: onnx.NodeProto) -> bool:
    """Whether the seed of a node is an attribute of the function that it is in."""
    return _draws(node) and any(a.name == "seed" and a.ref_attr_name for a in node.attribute)
