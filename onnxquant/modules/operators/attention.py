"""Attention, and rotations of positions."""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from onnxquant.modules.node import Node, Result, microsoft, operator
from onnxquant.modules.operators.rotation import heads_of, joined, rotated

_MASKED = -10000.0


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None = None, cap: float = 0.0
) -> Tensor:
    """Attention of heads.

    Args:
        query: [batch, heads, length, size].
        key: [batch, heads, or a divisor of them, keys, size].
        value: the same, with a size of its own.
        scale: factor of the products.
        bias: added to the products.
        cap: bound of the products, by tanh; 0: none.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    if not cap:
        return F.scaled_dot_product_attention(query, key, value, bias, scale=scale)
    scores = torch.tanh(query @ key.mT * (scale / cap)) * cap
    return torch.softmax(scores if bias is None else scores + bias, -1) @ value


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """A sum of biases, each of which may be absent."""
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _padding_bias(node: Node, mask: Tensor, keys: int, like: Tensor) -> Tensor:
    """The bias of keys that a mask leaves out.

    Args:
        node: the node.
        mask: lengths of the texts [batch], or ones where keys count: [batch, keys] or [batch, length, keys].
        keys: number of keys.
        like: a tensor of the type of the bias.
    """
    if mask.dim() == 1:
        if len(mask) != len(like):
            raise node.refuse(
                f"its mask has shape {list(mask.shape)}", "a mask [batch], [batch, keys] or of three axes"
            )
        mask = torch.arange(keys) < mask.reshape(-1, 1)
    mask = mask.reshape(mask.shape[0], 1, -1, mask.shape[-1])
    lowest = node.get("mask_filter_value", _MASKED)
    return torch.where(mask.bool(), 0.0, lowest).to(like.dtype)


def _causal_bias(length: int, keys: int, lowest: float, like: Tensor) -> Tensor:
    """The bias of keys behind each query, where the queries are the last of the keys."""
    ahead = torch.ones(length, keys, dtype=torch.bool).triu(keys - length + 1)
    return torch.where(ahead, lowest, 0.0).to(like.dtype)


@microsoft("MultiHeadAttention", numbers=(4,))
def multi_head_attention(
    node: Node,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *more: Tensor | None,
) -> Result:
    """Attention of onnxruntime between queries, keys and values, each [batch, length, heads * size]."""
    if any(x is not None for x in more):
        raise node.refuse("it has a past of a fixed length, or a cache of indices", "no input behind past_value")
    count = node.get("num_heads", 1)
    if query.dim() == 5:  # [batch, length, heads, 3, size]
        query, key, value = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.dim() == 5:  # [batch, length, heads, 2, size]
        key, value = (part.flatten(2) for part in key.unbind(3))
    if key is None or value is None:
        raise node.refuse("it has no keys or no values", "inputs key and value, or packed ones")
    if bias is not None:
        width, key_width = query.shape[-1], key.shape[-1] if key.dim() == 3 else query.shape[-1]
        query = query + bias[:width]
        if key.dim() == 3:
            key, value = key + bias[width : width + key_width], value + bias[width + key_width :]
    query = heads_of(query, count)
    key, value = (x if x.dim() == 4 else heads_of(x, count) for x in (key, value))
    return _attended(node, query, key, value, mask, added, past_key, past_value)


def _attended(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    added: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
) -> Result:
    """Attention of heads with the masks of onnxruntime; its keys and values, those of the past first."""
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    length, keys = query.shape[2], key.shape[2]
    total = added
    if mask is not None:
        total = _added(total, _padding_bias(node, mask, keys, query))
    if node.get("unidirectional", 0):
        total = _added(total, _causal_bias(length, keys, node.get("mask_filter_value", _MASKED), query))
    scale = node.get("scale", 0.0) or 1 / sqrt(query.shape[-1])
    return joined(attend(query, key, value, scale, total)), key, value


@microsoft("Attention", numbers=(3,))
def attention_of_onnxruntime(
    node: Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *more: Tensor | None,
) -> Result:
    """Attention of onnxruntime with the projections of queries, keys and values; keys and values are the second output."""
    if any(value is not None for value in more) or node.get("do_rotary", 0):
        raise node.refuse("it rotates, or has a past of a fixed length", "neither")
    projected = x @ weight if bias is None else x @ weight + bias
    count, third = node.get("num_heads", 1), projected.shape[-1] // 3
    parts = projected.split_with_sizes(node.get("qkv_hidden_sizes", [third] * 3), -1)
    query, key, value = (heads_of(part, count) for part in parts)
    past_key, past_value = (None, None) if past is None else past.unbind(0)
    attended, key, value = _attended(node, query, key, value, mask, added, past_key, past_value)
    return attended, torch.stack([key, value]) if len(node.outputs) > 1 else key


@microsoft("GroupQueryAttention", numbers=(5, 6, 9))
def group_query_attention(
    node: Node,
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    last_keys: Tensor,
    total: Tensor,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    positions: Tensor | None = None,
    added: Tensor | None = None,
    *more: Tensor | None,
) -> Result:
    """Causal attention of groups of heads that share keys, with the keys and values of earlier tokens.

    Each row has so many keys as ``last_keys`` says, less one; the tokens of the call are the last of them.
    """
    if any(extra is not None for extra in more) or node.get("smooth_softmax", 0) == 1:
        raise node.refuse("it has sinks, norms or codes of its keys", "no input behind attention_bias")
    count, key_count = node.get("num_heads", 1), node.get("kv_num_heads", 1)
    if key is None or value is None:
        heads = heads_of(query, count + 2 * key_count)
        queries, keys, values = heads.split_with_sizes([count, key_count, key_count], 1)
    else:
        queries, keys, values = heads_of(query, count), heads_of(key, key_count), heads_of(value, key_count)
    length, whole = queries.shape[2], int(total.item())
    before = (last_keys.long().reshape(-1, 1) + 1 - length) * (length != whole)
    places = before + torch.arange(length)  # [batch, length]
    if node.get("do_rotary", 0):
        if cosines is None or sines is None:
            raise node.refuse("do_rotary is 1 and a table of angles is missing", "inputs cos_cache and sin_cache")
        where = places if positions is None else positions.long().reshape(places.shape)
        angles = cosines[where].unsqueeze(1), sines[where].unsqueeze(1)
        is_interleaved = bool(node.get("rotary_interleaved", 0))
        queries, keys = (rotated(part, *angles, is_interleaved=is_interleaved) for part in (queries, keys))
    keys, values = (_appended(past, x, places, whole) for past, x in ((past_key, keys), (past_value, values)))
    numbers = torch.arange(whole)
    is_seen = numbers <= places.unsqueeze(-1)
    window = node.get("local_window_size", -1)
    if window >= 0:
        is_seen = is_seen & (numbers > places.unsqueeze(-1) - window)
    bias = torch.where(is_seen, 0.0, -torch.inf).to(queries.dtype).unsqueeze(1)
    scale = node.get("scale", 0.0) or 1 / sqrt(queries.shape[-1])
    bias = bias if added is None else bias + added
    attended = attend(queries, keys[:, :, :whole], values[:, :, :whole], scale, bias, node.get("softcap", 0.0))
    return joined(attended), keys, values


def _appended(past: Tensor | None, x: Tensor, places: Tensor, total: int) -> Tensor:
    """Keys or values behind those of earlier tokens.

    Args:
        past: those of earlier tokens [batch, heads, past, size].
        x: those of this call [batch, heads, length, size].
        places: their places in the result [batch, length].
        total: least length of the result.
    """
    if past is None:
        past = x[:, :, :0]
    room = torch.cat([past.to(x.dtype), x.new_zeros(*x.shape[:2], max(total - past.shape[2], 0), x.shape[3])], 2)
    return room.scatter(2, places[:, None, :, None].expand_as(x), x)


@operator("Attention", numbers=(6,))
def attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Result:
    """Attention of heads, or of channels that become heads; its keys and values, those of the past first."""
    if len(node.outputs) > 3:
        raise node.refuse("its products are an output", "the first three outputs alone")
    if lengths is not None:
        raise node.refuse("it has lengths of keys", "a mask instead")
    if query.dim() == 3:
        queries = heads_of(query, node.get("q_num_heads", 1))
        keys, values = (heads_of(part, node.get("kv_num_heads", 1)) for part in (key, value))
    else:
        queries, keys, values = query, key, value
    if past_key is not None and past_value is not None:
        keys, values = torch.cat([past_key, keys], 2), torch.cat([past_value, values], 2)
    bias = mask
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.where(mask, 0.0, -torch.inf).to(queries.dtype)
    if node.get("is_causal", 0):
        length, count = queries.shape[2], keys.shape[2]
        past = 0 if past_key is None else past_key.shape[2]
        ahead = torch.ones(length, count, dtype=torch.bool).triu(past + 1)
        bias = _added(bias, torch.where(ahead, -torch.inf, 0.0).to(queries.dtype))
    scale = node.get("scale", 0.0) or 1 / sqrt(queries.shape[-1])
    attended = attend(queries, keys, values, scale, bias, node.get("softcap", 0.0))
    return joined(attended) if query.dim() == 3 else attended, keys, values
