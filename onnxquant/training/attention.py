"""Attention of torch whose projections round as a quantized file does."""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from onnxquant.errors import FeedError
from onnxquant.training.layers import QuantizedLinear, rounded_input


class QuantizedMultiheadAttention(nn.Module):
    """``torch.nn.MultiheadAttention`` whose projections, and on request what they read, are rounded.

    The projections of queries, keys and values are ``q_proj``, ``k_proj``, ``v_proj``. See ``QuantizedLinear``; the first
    arguments, and the tensors that go in and out, are those of ``torch.nn.MultiheadAttention``. Products of queries, keys
    and values are floats.

    Args:
        weight_bits: bits of the weights' codes, one step for each output, 2 to 8.
        activation_bits: bits of the codes of what the projections read, 2 to 8; None: floats.

    Raises:
        RecipeError: the bits are out of bounds.
    """

    # A layer of an encoder asks these whether it may take the weights as they are, in one operator. It may not.
    _qkv_same_embed_dim = False
    in_proj_bias = None

    q_proj: QuantizedLinear
    k_proj: QuantizedLinear
    v_proj: QuantizedLinear
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_bits: int = 8,
        activation_bits: int | None = None,
    ) -> None:
        super().__init__()
        layer = nn.MultiheadAttention(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype
        )
        self._take(layer, weight_bits, activation_bits)

    @classmethod
    def from_float(
        cls, layer: nn.MultiheadAttention, *, weight_bits: int = 8, activation_bits: int | None = None
    ) -> Self:
        """Attention with copies of the parameters of a float one.

        Args:
            layer: the float layer.
            weight_bits: bits of the weights' codes, 2 to 8.
            activation_bits: bits of the codes of what is read, 2 to 8; None: floats.
        """
        attention = cls.__new__(cls)
        nn.Module.__init__(attention)
        attention._take(layer, weight_bits, activation_bits)
        return attention.train(layer.training)

    def _take(self, layer: nn.MultiheadAttention, weight_bits: int, activation_bits: int | None) -> None:
        self.embed_dim, self.num_heads, self.dropout = layer.embed_dim, layer.num_heads, layer.dropout
        self.batch_first, self.add_zero_attn = layer.batch_first, layer.add_zero_attn
        if layer.in_proj_weight is None:
            weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
        else:
            weights = list(layer.in_proj_weight.chunk(3))
        biases = [None] * 3 if layer.in_proj_bias is None else list(layer.in_proj_bias.chunk(3))
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            projection = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
            with torch.no_grad():
                projection.weight.copy_(weight)
                if bias is not None:
                    projection.bias.copy_(bias)
            self.add_module(name, QuantizedLinear.from_float(projection, weight_bits=weight_bits))
        device = layer.out_proj.weight.device
        self.rounded_query = rounded_input(activation_bits, device)
        self.rounded_key = rounded_input(activation_bits, device)
        self.rounded_value = rounded_input(activation_bits, device)
        self.out_proj = QuantizedLinear.from_float(
            layer.out_proj, weight_bits=weight_bits, activation_bits=activation_bits
        )
        for name in ("bias_k", "bias_v"):
            vector = getattr(layer, name)
            self.register_parameter(name, None if vector is None else nn.Parameter(vector.detach().clone()))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended values, and the weights of attention or None.

        Args:
            query: [queries, batch, embed_dim]; batch first where the layer is so; without a batch [queries, embed_dim].
            key: the same of keys.
            value: the same of values.
            key_padding_mask: [batch, keys]; True, or what is added: keys to ignore.
            need_weights: whether the weights are returned.
            attn_mask: [queries, keys] or [batch * heads, queries, keys]; True, or what is added: keys to ignore.
            average_attn_weights: whether the weights are those of all heads together.
            is_causal: whether the attn_mask is causal; a hint.

        Raises:
            FeedError: the hint is given without a mask.
        """
        if is_causal and attn_mask is None:
            raise FeedError("is_causal is a hint about attn_mask, which is missing; give the mask")
        queries = self.rounded_query(query)
        keys = queries if key is query else self.rounded_key(key)
        values = queries if value is query else keys if value is key else self.rounded_value(value)
        queries, keys, values = (
            projection(self._batch_first(tensor))
            for projection, tensor in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        mask = self._mask(attn_mask, key_padding_mask, queries)
        if self.bias_k is not None and self.bias_v is not None:
            keys = torch.cat([keys, self.bias_k.expand(len(keys), 1, -1)], 1)
            values = torch.cat([values, self.bias_v.expand(len(values), 1, -1)], 1)
        if self.add_zero_attn:
            keys, values = F.pad(keys, (0, 0, 0, 1)), F.pad(values, (0, 0, 0, 1))
        if mask is not None:  # what was added is no key of the caller's
            mask = F.pad(mask, (0, (self.bias_k is not None) + self.add_zero_attn))
        queries, keys, values = map(self._heads, (queries, keys, values))
        attended, weights = self._attend(queries, keys, values, mask, need_weights=need_weights)
        result = self.out_proj(attended.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.dim() == 2:
            return result[0], None if weights is None else weights[0]
        return result if self.batch_first else result.transpose(0, 1), weights

    def _batch_first(self, tensor: Tensor) -> Tensor:
        if tensor.dim() == 2:
            return tensor[None]
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def _heads(self, tensor: Tensor) -> Tensor:
        """Outputs of a projection as [batch, heads, places, numbers]."""
        return tensor.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
        """The sum of both masks as floats, [batch or 1, heads or 1, queries or 1, keys]; None: there are none."""
        masks = []
        if attn_mask is not None:
            mask = _added(attn_mask, like)
            masks.append(mask.reshape(-1, self.num_heads, *mask.shape[1:]) if mask.dim() == 3 else mask[None, None])
        if key_padding_mask is not None:
            mask = _added(key_padding_mask, like)
            masks.append((mask if mask.dim() == 2 else mask[None])[:, None, None])
        return sum(masks[1:], masks[0]) if masks else None

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The values of each head, and the weights or None."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(queries, keys, values, mask, dropout), None
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ values, weights


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers that are added to scores."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
