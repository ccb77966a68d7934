"""Nodes that unpack the factors of super-blocks (``formats/ggml/factors.py``) in float arithmetic, exact in every opset."""

from __future__ import annotations

from onnxquant.formats.base import Format
from onnxquant.formats.ggml.factors import FourBits, SignedBytes, SignedSixBits, SixBits
from onnxquant.formats.ggml.superblocks import SuperBlocks
from onnxquant.targets.node_builder import NodeBuilder


def unpacked_factors(nodes: NodeBuilder, form: Format, plane: str) -> list[str]:
    """The factors of scales, and of minima where there are such, as float [super-blocks, sub-blocks of one].

    Args:
        nodes: the builder that the nodes are added to.
        form: the format, one of super-blocks.
        plane: name of the plane of layout ``tiles`` that holds the factors.

    Raises:
        ValueError: no nodes are known for factors of this format.
    """
    if not isinstance(form, SuperBlocks):
        raise ValueError(f"format {form.name} has factors, but is none of super-blocks")
    kind = form.factors
    order = [0, 2, 1] if kind.one_per_sub_block else [0, 3, 1, 2]
    rows = nodes.floats(nodes.op("Transpose", plane, perm=order))
    packed = nodes.op("Reshape", rows, nodes.ints(-1, kind.count))
    match kind:
        case SignedBytes():
            return [packed]
        case FourBits():
            return list(nodes.split(packed, nodes.number(16)))
        case SixBits():
            return _six_bits(nodes, packed)
        case SignedSixBits():
            return [_signed_six_bits(nodes, packed)]
    raise ValueError(f"format {form.name}: there are no nodes for factors packed as {type(kind).__name__}")


def _six_bits(nodes: NodeBuilder, packed: str) -> list[str]:
    first, second, last = (_slice(nodes, packed, at, at + 4) for at in (0, 4, 8))
    six_bits = nodes.number(64)
    (sc_low, sc_high), (m_low, m_high) = nodes.split(first, six_bits), nodes.split(second, six_bits)
    four_bits = nodes.number(16)
    last_low, last_high = nodes.split(last, four_bits)
    sc = nodes.op("Concat", sc_low, nodes.join(last_low, sc_high, four_bits), axis=1)
    m = nodes.op("Concat", m_low, nodes.join(last_high, m_high, four_bits), axis=1)
    return [sc, m]


def _signed_six_bits(nodes: NodeBuilder, packed: str) -> str:
    four_bits = nodes.number(16)
    low = nodes.op("Concat", *nodes.split(_slice(nodes, packed, 0, 8), four_bits), axis=1)
    high = nodes.op("Concat", *nodes.fields(_slice(nodes, packed, 8, 12), 2), axis=1)
    return nodes.op("Sub", nodes.join(low, high, four_bits), nodes.number(32))


def _slice(nodes: NodeBuilder, x: str, first: int, last: int) -> str:
    return nodes.op("Slice", x, nodes.ints(first), nodes.ints(last), nodes.ints(1))
