"""The architecture of a GGUF checkpoint, from its metadata and the tensors that are part of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from onnxquant.errors import CheckpointError, shown
from onnxquant.interchange.tensor import Checkpoint
from onnxquant.language.architecture import (
    MOST_CHANNELS,
    PERIODS,
    Activation,
    Architecture,
    Layer,
    Rotation,
    frequencies,
    long_magnitude,
)
from onnxquant.language.fields import Fields
from onnxquant.numerics.arrays import Array

# Windows of files that do not say one; llama.cpp has the first.
_WINDOWS = {"gemma2": 4096, "gemma3": None}
# Gemma models of 27 B parameters scale queries by the hidden size over the heads; files tell them by their depth alone.
_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}


def architecture_of_gguf(checkpoint: Checkpoint) -> Architecture:
    """The architecture that the metadata of a GGUF file describes. Names: the GGUF specification of ggml.

    Raises:
        CheckpointError: it is of no family that is known, or an entry is missing, wrong, or of an unknown kind.
    """
    place = str(checkpoint.path)
    family = Fields(place, checkpoint.metadata).text("general.architecture", "")
    if family not in _FAMILIES:
        raise CheckpointError(
            f"{place}: general.architecture {shown(family) if family else 'missing'} is not known; "
            f"expected one of {', '.join(_FAMILIES)}"
        )
    fields = Fields(place, checkpoint.metadata, f"{family}.")
    if fields.has("expert_count") and fields.number("expert_count") > 0:
        raise CheckpointError(f"{place}: {family}.expert_count: a mixture of experts; expected a dense network")
    architecture = _FAMILIES[family](_Reader(checkpoint, fields, family))
    architecture.check(place)
    return architecture


@dataclass(frozen=True)
class _Reader:
    """The entries that families have in common."""

    checkpoint: Checkpoint
    fields: Fields
    family: str

    @property
    def hidden_size(self) -> int:
        return self.fields.count("embedding_length")

    @property
    def heads(self) -> int:
        return self.fields.count("attention.head_count")

    @property
    def head_dim(self) -> int:
        size = self.fields.count("attention.key_length", self.hidden_size // self.heads, MOST_CHANNELS)
        if (value := self.fields.count("attention.value_length", size)) != size:
            raise self.fields.error("attention.value_length", value, f"{size}, as keys have")
        return size

    @property
    def depth(self) -> int:
        return self.fields.depth("block_count")

    def sliding_window(self) -> int | None:
        name = "attention.sliding_window"
        return self.fields.count(name) if self.fields.has(name) and self.fields.number(name) != 0 else None

    def architecture(self, layers: tuple[Layer, ...], rotations: tuple[Rotation, ...]) -> Architecture:
        """The architecture with entries that all families have."""
        fields, heads = self.fields, self.heads
        embedding = self.checkpoint["token_embd.weight"]
        return Architecture(
            family=self.family,
            hidden_size=self.hidden_size,
            intermediate_size=fields.count("feed_forward_length"),
            heads=heads,
            kv_heads=fields.count("attention.head_count_kv", heads),
            head_dim=self.head_dim,
            vocabulary=fields.count("vocab_size", embedding.shape[0] if embedding.shape else None),
            context_length=fields.count("context_length"),
            epsilon=fields.positive("attention.layer_norm_rms_epsilon"),
            activation=Activation.SILU,
            rotations=rotations,
            layers=layers,
            scale=1 / sqrt(self.head_dim),
            is_tied="output.weight" not in self.checkpoint.tensors,
        )

    def rotation(self) -> Rotation:
        """The rotation by base, scaling, and the tensors that hold a divisor for each frequency."""
        fields = self.fields
        channels = fields.count("rope.dimension_count", self.head_dim)
        if channels % 2 or channels > self.head_dim or (self.family == "llama" and channels != self.head_dim):
            raise fields.error("rope.dimension_count", channels, f"{self.head_dim}, the channels of a head")
        plain = frequencies(fields.positive("rope.freq_base", 10_000.0), channels)
        if fields.has("rope.scale_linear"):
            raise fields.error(
                "rope.scale_linear", fields.number("rope.scale_linear"), "rope.scaling.factor, its newer name"
            )
        kind = fields.text("rope.scaling.type", "linear" if fields.has("rope.scaling.factor") else "none")
        if "rope_factors_short.weight" in self.checkpoint.tensors:
            return self._long(plain)
        if "rope_freqs.weight" in self.checkpoint.tensors:
            return Rotation(plain / self._divisors("rope_freqs.weight", len(plain)))
        if kind == "none":
            return Rotation(plain)
        if kind == "linear":
            return Rotation(plain / fields.positive("rope.scaling.factor"))
        raise fields.error("rope.scaling.type", kind, "none, linear, or tensors that hold the divisors of frequencies")

    def _long(self, plain: Array) -> Rotation:
        context = self.fields.count("context_length")
        original = self.fields.count("rope.scaling.original_context_length", context)
        if original < 2:
            raise self.fields.error("rope.scaling.original_context_length", original, "2 or more positions")
        magnitude = self.fields.positive("rope.scaling.attn_factor", long_magnitude(context, original))
        short, long = (
            Rotation(plain / self._divisors(f"rope_factors_{name}.weight", len(plain)), magnitude)
            for name in ("short", "long")
        )
        return Rotation(short.frequencies, magnitude, long if context > original else None, original)

    def _divisors(self, name: str, count: int) -> Array:
        tensor = self.checkpoint[name]
        values = np.asarray(tensor.array(), np.float64).reshape(-1)
        if len(values) != count or not np.isfinite(values).all() or (values <= 0).any():
            raise CheckpointError(
                f"{self.checkpoint.path}: tensor {name} of shape {list(tensor.shape)}: expected {count} numbers above 0"
            )
        return values


def _plain(reader: _Reader) -> Architecture:
    is_qwen = reader.family in ("qwen2", "qwen3")
    layers = (Layer(None if is_qwen else reader.sliding_window()),) * reader.depth
    return replace(reader.architecture(layers, (reader.rotation(),)), has_qk_norms=reader.family == "qwen3")


def _gemma(reader: _Reader) -> Architecture:
    fields, is_third, depth = reader.fields, reader.family == "gemma3", reader.depth
    window, period = reader.sliding_window() or _WINDOWS[reader.family], PERIODS[reader.family]
    layers = [Layer(window, int(is_third)) if window and (layer + 1) % period else Layer() for layer in range(depth)]
    rotations = [reader.rotation()]
    if is_third:
        base = fields.positive("rope.freq_base_swa", 10_000.0)
        rotations.append(Rotation(frequencies(base, reader.head_dim)))
    per_head = reader.hidden_size / reader.heads if depth == _LARGEST_GEMMA[reader.family] else reader.head_dim
    return replace(
        reader.architecture(tuple(layers), tuple(rotations)),
        activation=Activation.GELU_TANH,
        scale=per_head**-0.5,
        softcap=0.0 if is_third else fields.positive("attn_logit_softcapping", 50.0),
        logit_softcap=0.0 if is_third else fields.positive("final_logit_softcapping", 30.0),
        embedding_scale=sqrt(reader.hidden_size),
        has_post_norms=True,
        has_qk_norms=is_third,
    )


_FAMILIES: dict[str, Callable[[_Reader], Architecture]] = {
    "llama": _plain,
    "qwen2": _plain,
    "qwen3": _plain,
    "gemma2": _gemma,
    "gemma3": _gemma,
    "phi3": _plain,
}
