"""Names of a decoder's tensors in GGUF files and in Hugging Face checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnxquant.language.architecture import Architecture

# Part of the network: its name in GGUF, and in Hugging Face checkpoints. Those of a layer follow the layer's own beginning.
_WHOLE = {
    "embedding": ("token_embd", "embed_tokens"),
    "norm": ("output_norm", "norm"),
    "lm_head": ("output", "lm_head"),
}
_LAYER = {
    "attention_norm": ("attn_norm", "input_layernorm"),
    "q": ("attn_q", "self_attn.q_proj"),
    "k": ("attn_k", "self_attn.k_proj"),
    "v": ("attn_v", "self_attn.v_proj"),
    "qkv": ("attn_qkv", "self_attn.qkv_proj"),
    "q_norm": ("attn_q_norm", "self_attn.q_norm"),
    "k_norm": ("attn_k_norm", "self_attn.k_norm"),
    "o": ("attn_output", "self_attn.o_proj"),
    "attention_post_norm": ("post_attention_norm", "post_attention_layernorm"),
    "mlp_norm": ("ffn_norm", "pre_feedforward_layernorm"),
    "gate": ("ffn_gate", "mlp.gate_proj"),
    "up": ("ffn_up", "mlp.up_proj"),
    "gate_up": ("ffn_up", "mlp.gate_up_proj"),
    "down": ("ffn_down", "mlp.down_proj"),
    "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
}


@dataclass(frozen=True)
class Names:
    """Names of tensors by the part of the network.

    Attributes:
        is_gguf: whether they are those of GGUF.
        prefix: beginning of all names but that of ``lm_head``, which gives the logits.
        lm_head_prefix: beginning of the name of ``lm_head``.
        has_post_norms: whether the architecture normalizes outputs, and calls the norm before the network another name.
    """

    is_gguf: bool
    prefix: str
    lm_head_prefix: str
    has_post_norms: bool

    @classmethod
    def of(cls, tensors: Collection[str], architecture: Architecture, *, is_gguf: bool) -> Names:
        """Names of a checkpoint; what stands before them is seen at the embedding."""
        if is_gguf:
            return cls(True, "", "", architecture.has_post_norms)
        end = "embed_tokens.weight"
        prefix = min((name.removesuffix(end) for name in tensors if name.endswith(end)), key=len, default="model.")
        places = (prefix, prefix.removesuffix("model."), "")
        of_lm_head = next((place for place in places if f"{place}lm_head.weight" in tensors), "")
        return cls(False, prefix, of_lm_head, architecture.has_post_norms)

    def weight(self, part: str, layer: int | None = None) -> str:
        """Name of the weight of a part."""
        return f"{self._base(part, layer)}.weight"

    def bias(self, part: str, layer: int | None = None) -> str:
        """Name of the bias of a part."""
        return f"{self._base(part, layer)}.bias"

    def _base(self, part: str, layer: int | None) -> str:
        table: Mapping[str, tuple[str, str]] = _WHOLE if layer is None else _LAYER
        gguf, other = table[part]
        if self.is_gguf:
            return gguf if layer is None else f"blk.{layer}.{gguf}"
        if part == "mlp_norm" and not self.has_post_norms:
            other = "post_attention_layernorm"
        before = self.lm_head_prefix if part == "lm_head" else self.prefix
        return before + (other if layer is None else f"layers.{layer}.{other}")
