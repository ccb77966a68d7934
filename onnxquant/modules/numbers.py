"""Inputs that a function reads as numbers: shapes, axes, sizes."""

from __future__ import annotations

from torch import Tensor

from onnxquant.modules.node import Node


def integers(values: Tensor) -> list[int]:
    """The elements of a tensor as numbers of Python."""
    return [int(value) for value in values.reshape(-1).tolist()]


def integers_or(node: Node, name: str, values: Tensor | None) -> list[int] | None:
    """Numbers that are an input in later opsets and an attribute in earlier ones; None: neither is there."""
    if values is not None:
        return integers(values)
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(value) for value in attribute]


def axis_of(node: Node, default: int, rank: int) -> int:
    """The attribute ``axis``, counted from the front."""
    return node.get("axis", default) % max(rank, 1)
