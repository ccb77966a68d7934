"""The architecture of a Hugging Face checkpoint, from its config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt

from onnxquant.errors import CheckpointError, shown
from onnxquant.json_data import JsonValue
from onnxquant.language.architecture import (
    MOST_CHANNELS,
    PERIODS,
    Activation,
    Architecture,
    Layer,
    Llama3Scaling,
    Rotation,
    frequencies,
    long_magnitude,
)
from onnxquant.language.fields import Fields
from onnxquant.numerics.arrays import Array

# Names of activation functions in configurations.
_ACTIVATIONS = {"silu": Activation.SILU, "swish": Activation.SILU, "gelu_pytorch_tanh": Activation.GELU_TANH}
_LOCAL = "sliding_attention"
_LAYER_TYPES = (_LOCAL, "full_attention")
# What transformers takes where a configuration does not have an entry at all; null is an entry.
_GEMMA: Mapping[str, JsonValue] = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip
_DEFAULTS: Mapping[str, Mapping[str, JsonValue]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "mistral": {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096,
    },
    "qwen2": {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32, "max_window_layers": 28},
    "qwen3": {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32, "max_window_layers": 28,
        "head_dim": 128,
    },
    "gemma2": {
        **_GEMMA, "vocab_size": 256000, "max_position_embeddings": 8192, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3": {**_GEMMA, "vocab_size": 262208, "max_position_embeddings": 131072},
    "phi3": {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
}  # fmt: skip


def architecture_of_config(fields: Fields) -> Architecture:
    """The architecture that a config.json describes.

    Args:
        fields: its entries.

    Raises:
        CheckpointError: it is of no family that is known, or an entry is missing, wrong, or of an unknown kind.
    """
    place, kind = fields.place, fields.text("model_type", "")
    if kind == "gemma3":  # with a tower for images, whose text model is a decoder like others
        fields, kind = fields.inner("text_config"), "gemma3_text"
    family = kind.removesuffix("_text")
    if family not in _FAMILIES:
        named = fields.entries.get("architectures")
        raise CheckpointError(
            f"{place}: model_type {shown(kind) if kind else 'missing'} (architectures {shown(named)}) is not known; "
            f"expected one of {', '.join(_FAMILIES)}"
        )
    reader = _Reader(replace(fields, entries={**_DEFAULTS[family], **fields.entries}), family)
    architecture = _FAMILIES[family](reader)
    architecture.check(place)
    return architecture


@dataclass(frozen=True)
class _Reader:
    """The entries that families have in common."""

    fields: Fields
    family: str

    @property
    def hidden_size(self) -> int:
        return self.fields.count("hidden_size")

    @property
    def heads(self) -> int:
        return self.fields.count("num_attention_heads")

    @property
    def head_dim(self) -> int:
        return self.fields.count("head_dim", self.hidden_size // self.heads, MOST_CHANNELS)

    @property
    def depth(self) -> int:
        return self.fields.depth("num_hidden_layers")

    @property
    def context_length(self) -> int:
        return self.fields.count("max_position_embeddings")

    def activation(self, name: str = "hidden_act") -> Activation:
        text = self.fields.text(name, "silu" if name == "hidden_act" else "gelu_pytorch_tanh")
        if text not in _ACTIVATIONS:
            raise self.fields.error(name, text, f"one of {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[text]

    def sliding_window(self) -> int | None:
        return self.fields.count("sliding_window") if self.fields.has("sliding_window") else None

    def architecture(
        self, layers: tuple[Layer, ...], rotations: tuple[Rotation, ...], activation: Activation
    ) -> Architecture:
        """The architecture with entries that all families have."""
        fields, heads = self.fields, self.heads
        return Architecture(
            family=self.family,
            hidden_size=self.hidden_size,
            intermediate_size=fields.count("intermediate_size"),
            heads=heads,
            kv_heads=fields.count("num_key_value_heads", heads),
            head_dim=self.head_dim,
            vocabulary=fields.count("vocab_size"),
            context_length=self.context_length,
            epsilon=fields.positive("rms_norm_eps"),
            activation=activation,
            rotations=rotations,
            layers=layers,
            scale=1 / sqrt(self.head_dim),
            is_tied=fields.flag("tie_word_embeddings", default=False),
        )

    def alike(self, window: int | None) -> tuple[Layer, ...]:
        """Layers that are all alike."""
        return (Layer(window),) * self.depth

    def by_type(
        self, default: Callable[[int], bool], rotation: Callable[[bool], int] = lambda _: 0
    ) -> tuple[Layer, ...]:
        """Layers of two types: some see a window, the others all positions.

        Args:
            default: function that says whether a layer sees a window where the configuration has no types.
            rotation: function that gives the place of the rotation of a layer, by whether it sees a window.
        """
        local = [default(i) for i in range(self.depth)]
        if self.fields.has("layer_types"):
            types = self.fields.texts("layer_types")
            if len(types) != self.depth or any(kind not in _LAYER_TYPES for kind in types):
                raise self.fields.error("layer_types", types, f"{self.depth} of {', '.join(_LAYER_TYPES)}")
            local = [kind == _LOCAL for kind in types]
        window = self.sliding_window()
        if window is None and any(local):
            raise self.fields.error("sliding_window", None, "a number of positions, as some layers see a window")
        return tuple(Layer(window if is_local else None, rotation(is_local)) for is_local in local)

    def rotation(self) -> Rotation:
        """The rotation that one entry describes: of transformers 5, or the two of versions before."""
        if self.fields.has("rope_parameters"):
            parameters = self.fields.inner("rope_parameters")
            return self.scaled(parameters, parameters.positive("rope_theta", 10_000.0))
        return self.scaled(self.fields.inner("rope_scaling"), self.fields.positive("rope_theta", 10_000.0))

    def scaled(self, scaling: Fields, base: float) -> Rotation:
        """The rotation of a base and a scaling."""
        share = scaling.positive("partial_rotary_factor", self.fields.positive("partial_rotary_factor", 1.0))
        channels = round(self.head_dim * min(share, 2.0))
        if channels % 2 or not 0 < channels <= self.head_dim:
            raise self.fields.error(
                "partial_rotary_factor", share, f"a share of {self.head_dim} channels that pairs them"
            )
        plain = frequencies(base, channels)
        kind = scaling.text("rope_type", scaling.text("type", "default"))
        if kind == "default":
            return Rotation(plain)
        if kind == "linear":
            return Rotation(plain / scaling.positive("factor"))
        if kind == "llama3":
            low, high = scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")
            if low >= high:
                raise scaling.error("low_freq_factor", low, f"less than high_freq_factor, {high}")
            original = scaling.count("original_max_position_embeddings")
            return Rotation(Llama3Scaling(scaling.positive("factor"), low, high, original).scaled(plain))
        if kind in ("longrope", "su"):
            return self._long(scaling, plain)
        raise scaling.error("rope_type", kind, "default, linear, llama3 or longrope, which are known")

    def _long(self, scaling: Fields, plain: Array) -> Rotation:
        original = self.fields.count(
            "original_max_position_embeddings", scaling.count("original_max_position_embeddings", self.context_length)
        )
        if original < 2:
            raise self.fields.error("original_max_position_embeddings", original, "2 or more positions")
        magnitude = scaling.positive("attention_factor", long_magnitude(self.context_length, original))
        factors = {name: scaling.numbers(name) for name in ("short_factor", "long_factor")}
        for name, values in factors.items():
            if len(values) != len(plain):
                raise scaling.error(name, f"{len(values)} numbers", f"{len(plain)}")
        short, long = (Rotation(plain / values, magnitude) for values in factors.values())
        return Rotation(short.frequencies, magnitude, long if self.context_length > original else None, original)


def _llama(reader: _Reader) -> Architecture:
    return reader.architecture(reader.alike(None), (reader.rotation(),), reader.activation())


def _mistral(reader: _Reader) -> Architecture:
    return reader.architecture(reader.alike(reader.sliding_window()), (reader.rotation(),), reader.activation())


def _qwen(reader: _Reader) -> Architecture:
    fields = reader.fields
    layers = reader.alike(None)
    if fields.flag("use_sliding_window", default=False):
        first = int(fields.number("max_window_layers"))
        layers = reader.by_type(lambda layer: layer >= first)
    plain = reader.architecture(layers, (reader.rotation(),), reader.activation())
    return replace(plain, has_qk_norms=reader.family == "qwen3")


def _gemma(reader: _Reader) -> Architecture:
    fields, is_third = reader.fields, reader.family == "gemma3"
    period = fields.count("sliding_window_pattern", PERIODS[reader.family])
    if fields.flag("use_bidirectional_attention", default=False):
        raise fields.error("use_bidirectional_attention", True, "false: a decoder sees what is before a token")
    rotations: tuple[Rotation, ...]
    if is_third:
        rotations = _gemma3_rotations(reader)
        layers = reader.by_type(lambda layer: (layer + 1) % period != 0, lambda is_local: int(is_local))
    else:
        rotations = (reader.rotation(),)
        layers = reader.by_type(lambda layer: (layer + 1) % period != 0)
    # transformers' attention of the third does not read its own.
    softcap = 0.0 if is_third else _cap(fields, "attn_logit_softcapping")
    return replace(
        reader.architecture(layers, rotations, reader.activation("hidden_activation")),
        scale=fields.positive("query_pre_attn_scalar") ** -0.5,
        softcap=softcap,
        logit_softcap=_cap(fields, "final_logit_softcapping"),
        embedding_scale=sqrt(reader.hidden_size),
        norm_offset=1.0,
        has_post_norms=True,
        has_qk_norms=is_third,
    )


def _cap(fields: Fields, name: str) -> float:
    """The bound of an entry; 0: there is none."""
    return fields.positive(name) if fields.has(name) else 0.0


def _gemma3_rotations(reader: _Reader) -> tuple[Rotation, Rotation]:
    """The rotations of layers that see all positions, and of those that see a window."""
    fields = reader.fields
    parameters = fields.inner("rope_parameters")
    if parameters.has("full_attention"):
        full, local = parameters.inner("full_attention"), parameters.inner(_LOCAL)
        return (
            reader.scaled(full, full.positive("rope_theta", 1e6)),
            reader.scaled(local, local.positive("rope_theta", 1e4)),
        )
    base, local_base = fields.positive("rope_theta", 1e6), fields.positive("rope_local_base_freq", 1e4)
    return reader.scaled(fields.inner("rope_scaling"), base), Rotation(frequencies(local_base, reader.head_dim))


_FAMILIES: dict[str, Callable[[_Reader], Architecture]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "gemma2": _gemma,
    "gemma3": _gemma,
    "phi3": _mistral,
}
