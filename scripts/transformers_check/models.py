"""A tiny random Llama, and comparisons of its weights and logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers

from onnxquant import interchange
from onnxquant.numerics.arrays import Array

Model: TypeAlias = Any
"""A model of transformers, whose types say little."""
HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY = 256, 2, 4, 2, 256


@dataclass(frozen=True)
class Difference:
    """The difference between what two read.

    Attributes:
        weights: largest difference of decoded weights.
        logits: largest difference of logits; None: none were computed.
    """

    weights: float
    logits: float | None = None


@dataclass(frozen=True)
class Check:
    """A layout that one of two writes and the other reads.

    Attributes:
        name: its name.
        run: function of an empty folder that gives the difference.
        packages: packages that it needs beside transformers.
        tolerance: largest difference of logits that rounding of the other's computation explains.
        weight_tolerance: the same of decoded weights.
    """

    name: str
    run: Callable[[Path], Difference]
    packages: tuple[str, ...] = ()
    tolerance: float = 1e-5
    weight_tolerance: float = 0.0

    def passes(self, difference: Difference) -> bool:
        """Whether rounding explains a difference."""
        return difference.weights <= self.weight_tolerance and (difference.logits or 0.0) <= self.tolerance

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.packages if version_of(name) is None]


def version_of(package: str) -> str | None:
    """The version of a package; None: it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def tiny(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> Model:
    """A model of random weights, the same in every call."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():  # norms of ones would hide whether they are read
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(folder: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    """The folder of a tiny model, as transformers saves it."""
    tiny(tied=tied, dtype=dtype).save_pretrained(folder)
    return folder


def logits(model: Model) -> torch.Tensor:
    """Logits of some tokens, in float32."""
    tokens = torch.arange(48).reshape(2, 24) * 5 % VOCABULARY
    with torch.no_grad():
        out: torch.Tensor = model(tokens).logits.float()
    return out


def decoded(path: Path) -> dict[str, Array]:
    """All tensors of a checkpoint as this package decodes them, float32."""
    return {name: np.asarray(t.array(), np.float32) for name, t in interchange.open_checkpoint(path).tensors.items()}


def with_weights(weights: Mapping[str, Array], *, tied: bool = False) -> Model:
    """The tiny model with other weights; all of them, but for a head that is the table of embeddings."""
    model = tiny(tied=tied)
    keys = model.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()}, strict=False)
    left = [*keys.unexpected_keys, *(name for name in keys.missing_keys if not (tied and name == "lm_head.weight"))]
    if left:
        raise ValueError(f"these tensors have no counterpart: {left}")
    return model


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tensors; their shapes are equal."""
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {list(one.shape)} and {list(other.shape)}")
    return float((one.float() - other.float()).abs().max())


def differences(weights: Mapping[str, Array], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of weights from counterparts of the same name, rounded to their type; there is one at least."""
    return max(largest(torch.from_numpy(np.array(weights[name])).to(o.dtype), o.detach()) for name, o in other.items())
