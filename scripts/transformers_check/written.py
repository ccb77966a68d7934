"""Layouts that this package writes, loaded by transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from onnxquant import interchange
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.interchange.tensor import Value
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Array
from transformers_check.models import (
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCABULARY,
    Check,
    Difference,
    Model,
    decoded,
    differences,
    largest,
    logits,
    saved,
    tiny,
    with_weights,
)

GGUF_FORMATS = (
    "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "iq4_nl", "tq2_0",
    "tq1_0", "mxfp4",
)  # fmt: skip
# Kernels of GPTQ round weights to float16 on the CPU, those of bitsandbytes' int8 round activations to 8 bits.
_HALF, _EIGHT_BITS = 5e-3, 5e-2
# bitsandbytes multiplies by 1 / 127 where this package divides by 127.
_LAST_BIT = 1e-8
# Matrices that are no layers of a block.
_NOT_LAYERS = "embed|lm_head"


def _load(folder: Path, **options: object) -> Model:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def _plain(folder: Path, dtype: torch.dtype) -> Difference:
    """Floats, cut into several files."""
    interchange.convert(saved(folder / "source", dtype=dtype), folder / "out", to="safetensors", shard_bytes=500_000)
    model = _load(folder / "out", dtype=torch.float32)
    weights = decoded(folder / "out")
    return Difference(differences(weights, model.state_dict()), largest(logits(model), logits(with_weights(weights))))


# ---- GGUF ----


def _interleaved(weight: Array, heads: int) -> Array:
    """Rows of queries or keys in llama.cpp's order: the two halves of a head alternate."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _halved(weight: Array, heads: int) -> Array:
    """The rows of ``_interleaved`` in the order of transformers."""
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _heads_of(name: str) -> int:
    """Heads of a weight whose rows GGUF has in another order; 0: its order is the same."""
    return HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0


def _gguf_of_floats(path: Path) -> dict[str, str]:
    """Write the tiny model as GGUF by gguf's own writer; names there by names in transformers."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    there: dict[str, str] = {}
    for name, tensor in tiny().state_dict().items():
        array = tensor.numpy()
        if heads := _heads_of(name):
            array = _interleaved(array, heads)
        there[name] = str(names.get_name(name, try_suffixes=(".weight",)))
        writer.add_tensor(there[name], np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return there


def _gguf(folder: Path, form: str) -> Difference:
    names = _gguf_of_floats(folder / "floats.gguf")
    interchange.quantize(folder / "floats.gguf", folder / "model.gguf", form, min_elements=1)
    there = decoded(folder / "model.gguf")
    weights = {
        name: _halved(there[own], heads) if (heads := _heads_of(name)) else there[own] for name, own in names.items()
    }
    model = _load(folder, gguf_file="model.gguf", dtype=torch.float32)
    return Difference(differences(weights, model.state_dict()), largest(logits(model), logits(with_weights(weights))))


# ---- bitsandbytes ----


def _modules(model: Model, kind: type) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def _four_bits(folder: Path, form: Format, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> Difference:
    import bitsandbytes as bnb

    source = saved(folder / "source", tied=tied, dtype=dtype)
    interchange.quantize(source, folder / "out", form, to="safetensors", exclude="embed")
    model = _load(folder / "out")
    there = {}
    for name, module in _modules(model, bnb.nn.Linear4bit).items():
        module.support_avx512bf16_for_cpu = False  # that path computes in bfloat16
        module.compute_dtype, module.compute_type_is_set = torch.float32, True
        state = module.weight.quant_state
        state.dtype = torch.float32
        there[f"{name}.weight"] = bnb.functional.dequantize_4bit(module.weight.data, state)
    weights = decoded(folder / "out")
    same = largest(logits(model), logits(with_weights(weights, tied=tied))) if dtype is torch.float32 else None
    return Difference(differences(weights, there), same)


def _eight_bits(folder: Path, *, tied: bool) -> Difference:
    import bitsandbytes as bnb

    interchange.quantize(
        saved(folder / "source", tied=tied), folder / "out", "llm_int8", to="safetensors", exclude="embed|o_proj"
    )
    model = _load(folder / "out")
    modules = _modules(model, bnb.nn.Linear8bitLt)
    there = {
        f"{name}.weight": bnb.functional.int8_vectorwise_dequant(m.weight.CB, m.weight.SCB)
        for name, m in modules.items()
    }
    weights = decoded(folder / "out")
    return Difference(differences(weights, there), largest(logits(model), logits(with_weights(weights, tied=tied))))


# ---- GPTQ ----


def _gptq(
    folder: Path, form: Format, *, exclude: str = _NOT_LAYERS, tied: bool = False, permutation: str | None = None
) -> Difference:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    interchange.quantize(
        saved(folder / "source", tied=tied), folder / "out", form, to="safetensors", exclude=exclude,
        permutation=permutation,
    )  # fmt: skip
    bits = _quantization(folder / "out")["bits"]
    model = _load(
        folder / "out", dtype=torch.float32, quantization_config=transformers.GPTQConfig(bits=bits, backend="torch")
    )
    weights = decoded(folder / "out")
    modules = _modules(model, TorchLinear)
    there = {f"{name}.weight": module.dequantize_weight().T for name, module in modules.items()}
    return Difference(differences(weights, there), largest(logits(model), logits(with_weights(weights, tied=tied))))


def _gptq_dynamic(folder: Path) -> Difference:
    """Bits that gptqmodel finds for each module in a configuration of weights of two kinds and plain ones."""
    from gptqmodel.quantization.config import dynamic_get

    weights = {
        f"model.layers.{layer}.{name}": format_named(form, block_size=64)
        for layer in range(12)
        for name, form in {"up": "int4", "down": "int8" if layer == 1 else "int4"}.items()
    }
    plain = {f"model.layers.{layer}.gate": 0 for layer in range(12)}
    array = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    tensors: dict[str, Value] = {f"{name}.weight": dispatch.encode(form, array)[0] for name, form in weights.items()}
    interchange.save(folder / "out", tensors | {f"{name}.weight": array for name in plain}, to="safetensors")
    config = _quantization(folder / "out")
    bits = {name: form.planes(64, 64)["codes"].bits for name, form in weights.items()} | plain
    there = {name: int(dynamic_get(config["dynamic"], name, "bits", config["bits"])) for name in bits}
    return Difference(max(abs(bits[name] - there[name]) for name in bits))


def _quantization(folder: Path) -> dict[str, Any]:
    """The configuration of a quantized model."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


def checks() -> Iterator[Check]:
    """Every layout that is written."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield Check(f"safetensors {name}, in several files", partial(_plain, dtype=dtype))
    for name in GGUF_FORMATS:
        yield Check(f"GGUF {name}", partial(_gguf, form=name), ("gguf",))
    yield from _checks_of_bitsandbytes()
    yield from _checks_of_gptq()


def _checks_of_bitsandbytes() -> Iterator[Check]:
    packages = ("bitsandbytes", "accelerate")
    for name in ("nf4", "fp4"):
        for nested in (False, True):
            run = partial(_four_bits, form=format_named(name, double_quant=nested))
            yield Check(f"bitsandbytes {name}{', double quantization' * nested}", run, packages)
    run = partial(_four_bits, form=format_named("nf4"))
    yield Check("bitsandbytes nf4, tied head", partial(run, tied=True), packages)
    yield Check("bitsandbytes nf4 of bfloat16", partial(run, dtype=torch.bfloat16), packages)
    for tied in (False, True):
        name = f"bitsandbytes int8{', tied head' * tied}"
        yield Check(name, partial(_eight_bits, tied=tied), packages, _EIGHT_BITS, _LAST_BIT)


def _checks_of_gptq() -> Iterator[Check]:
    packages = ("gptqmodel", "optimum")
    for name in ("int8", "int4", "int3", "int2"):
        for symmetric in (True, False):
            run = partial(_gptq, form=format_named(name, block_size=64, symmetric=symmetric))
            yield Check(f"GPTQ {name}, {'' if symmetric else 'a'}symmetric", run, packages, _HALF)
    by_row = partial(_gptq, form=format_named("int4", per_channel=True))
    yield Check("GPTQ int4, one scale for a row", by_row, packages, _HALF)
    run = partial(_gptq, form=format_named("int4"))
    yield Check("GPTQ int4, columns in another order", partial(run, permutation="norm"), packages, _HALF)
    yield Check("GPTQ int4, tied head", partial(run, tied=True), packages, _HALF)
    some = partial(run, exclude=f"{_NOT_LAYERS}|k_proj|layers.1.mlp.up")
    yield Check("GPTQ int4, some layers plain", some, packages, _HALF)
    yield Check("GPTQ, bits of each layer", _gptq_dynamic, packages)
