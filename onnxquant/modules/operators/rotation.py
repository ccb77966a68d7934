"""Heads of attention, and their rotation by positions."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxquant.modules.node import Node, microsoft, operator


def heads_of(x: Tensor, count: int) -> Tensor:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    return x.reshape(*x.shape[:-1], count, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[batch, heads, length, size] as [batch, length, heads * size]."""
    return x.transpose(1, 2).flatten(2)


def rotated(x: Tensor, cosines: Tensor, sines: Tensor, *, is_interleaved: bool) -> Tensor:
    """Pairs of channels turned by angles; channels behind the pairs stay.

    Args:
        x: [batch, heads, length, size].
        cosines: [batch, 1, length, pairs].
        sines: the same.
        is_interleaved: whether the channels of a pair are neighbours; else they are half of the turned ones apart.
    """
    turned, rest = x[..., : 2 * cosines.shape[-1]], x[..., 2 * cosines.shape[-1] :]
    first, second = (turned[..., ::2], turned[..., 1::2]) if is_interleaved else turned.chunk(2, -1)
    parts = [first * cosines - second * sines, first * sines + second * cosines]
    joined_pairs = torch.stack(parts, -1).flatten(-2) if is_interleaved else torch.cat(parts, -1)
    return torch.cat([joined_pairs, rest], -1)


def _rotation(node: Node, x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None, size: int) -> Tensor:
    """A tensor [batch, length, heads * size] or [batch, heads, length, size] with its heads turned."""
    heads = x if x.dim() == 4 else heads_of(x, x.shape[-1] // size)
    if positions is not None:
        if positions.numel() == 1:  # where the text begins
            positions = positions.reshape(1, 1) + torch.arange(heads.shape[2])
        cosines, sines = cosines[positions.long()], sines[positions.long()]
    result = rotated(heads, cosines.unsqueeze(1), sines.unsqueeze(1), is_interleaved=bool(node.get("interleaved", 0)))
    return result if x.dim() == 4 else joined(result)


@operator("RotaryEmbedding", numbers=(3,))
def rotary_embedding(node: Node, x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None = None) -> Tensor:
    """Heads turned by the angles of their positions."""
    size = x.shape[-1] // (node.get("num_heads", 0) or 1)
    return _rotation(node, x, cosines, sines, positions, size)


@microsoft("RotaryEmbedding", numbers=(1,))
def rotary_embedding_of_onnxruntime(node: Node, x: Tensor, positions: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads turned by the angles of their positions; all of a head where the number of heads is left out."""
    count = node.get("num_heads", 0)
    size = x.shape[-1] // count if count else 2 * cosines.shape[-1]
    return _rotation(node, x, cosines, sines, positions, size)
