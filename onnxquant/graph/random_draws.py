"""Nodes that draw random numbers, and seeds for them, without which two runs of one model differ."""

from __future__ import annotations

import re
import zlib

import onnx

from onnxquant.graph.traverse import nodes

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


# What onnx's inliner adds to the names of a function, in each place that calls it.
_CALL = re.compile(r"(__\d+)+$")


def unseeded(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that draw other numbers in each session."""
    return [
        node
        for node in nodes(proto)
        if node.op_type in RANDOM_OPS and not node.domain and all(a.name != "seed" for a in node.attribute)
    ]


def add_seeds(proto: onnx.ModelProto) -> None:
    """Give every node that draws random numbers a seed, the same one in every model that calls its output the same.

    A node of a function has the same seed in every place into which the function is inlined.
    """
    for node in unseeded(proto):
        seed = float(zlib.crc32(_CALL.sub("", node.output[0]).encode()) % (1 << 20))  # float32 holds it exactly
        node.attribute.append(onnx.helper.make_attribute("seed", seed))
