"""Layouts that transformers and its companions save, read by this package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from transformers_check.models import (
    HIDDEN,
    Check,
    Difference,
    Model,
    decoded,
    differences,
    saved,
    tiny,
)

# bitsandbytes multiplies by 1 / 127 where this package divides by 127.
_LAST_BIT = 1e-8


def _linear(model: Model) -> dict[str, Any]:
    """The linear layers that tools quantize, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}


def _plain(folder: Path, dtype: torch.dtype) -> Difference:
    model = tiny(dtype=dtype)
    model.save_pretrained(folder, max_shard_size="500KB")
    return Difference(differences(decoded(folder), model.state_dict()))


# ---- bitsandbytes ----


def _bitsandbytes(folder: Path, options: Mapping[str, str | bool]) -> Difference:
    import bitsandbytes as bnb

    config = transformers.BitsAndBytesConfig(**options)
    source = saved(folder / "source")
    model = transformers.AutoModelForCausalLM.from_pretrained(source, quantization_config=config)
    there = {}
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            there[f"{name}.weight"] = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            there[f"{name}.weight"] = bnb.functional.int8_vectorwise_dequant(module.weight.CB, module.weight.SCB)
    model.save_pretrained(folder / "out")
    return Difference(differences(decoded(folder / "out"), there))


# ---- compressed-tensors ----


def _compressed_tensors(folder: Path, scheme: Mapping[str, Any]) -> Difference:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams

    group = {"targets": ["Linear"], "weights": {"type": "int", **scheme}}
    config = QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"], format="pack-quantized")
    model = tiny(dtype=torch.bfloat16)
    apply_quantization_config(model, config)
    for module in _linear(model).values():
        arguments = module.quantization_scheme.weights
        groups = module.weight.reshape(len(module.weight), -1, arguments.group_size or module.weight.shape[1])
        scales, zeros = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
        module.weight_scale.data.copy_(scales)
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data.copy_(zeros)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    # The one in memory is decompressed: transformers 5.24 cannot load zero points that compressed-tensors 0.20 packed.
    compressor.decompress_model(model)
    return Difference(differences(decoded(folder), {f"{name}.weight": m.weight for name, m in _linear(model).items()}))


# ---- BitNet ----


def _bitnet(folder: Path, kind: str) -> Difference:
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights, unpack_weights

    model = tiny()
    arrays = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for name, module in _linear(model).items():
        trits = torch.randint(-1, 2, module.weight.shape, generator=generator).float()
        arrays[f"{name}.weight"] = pack_weights(trits)
        arrays[f"{name}.weight_scale"] = torch.rand(1, generator=generator) + 0.5
    quantization = {
        "quant_method": "bitnet", "linear_class": kind, "quantization_mode": "offline", "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    _save(folder, arrays, quantization)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    there = {}
    for name, module in loaded.named_modules():
        if isinstance(module, AutoBitLinear):
            there[f"{name}.weight"] = module.weight * module.weight_scale
        elif isinstance(module, BitLinear):
            there[f"{name}.weight"] = unpack_weights(module.weight, torch.float32) / module.weight_scale
    return Difference(differences(decoded(folder), there))


# ---- GPTQ and AWQ ----


def _save(folder: Path, arrays: Mapping[str, torch.Tensor], quantization: Mapping[str, Any]) -> None:
    """Save arrays with the configuration of the tiny model."""
    tiny().config.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": dict(quantization)}))
    save_file({name: a.contiguous() for name, a in arrays.items()}, folder / "model.safetensors", {"format": "pt"})


def _words(rng: np.random.Generator, rows: int, cols: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(-(1 << 31), 1 << 31, (rows, cols), np.int64).astype(np.int32))


def _random(bits: int, group: int, *, is_awq: bool) -> dict[str, torch.Tensor]:
    """The tiny model with words at random in the place of its layers."""
    rng, model = np.random.default_rng(0), tiny()
    arrays = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in _linear(model).items():
        outputs, inputs = module.weight.shape
        del arrays[f"{name}.weight"]
        shape = (inputs, outputs * bits // 32) if is_awq else (inputs * bits // 32, outputs)
        arrays[f"{name}.qweight"] = _words(rng, *shape)
        arrays[f"{name}.qzeros"] = _words(rng, inputs // group, outputs * bits // 32)
        scales = rng.uniform(0.001, 0.002, (inputs // group, outputs)).astype(np.float16)
        arrays[f"{name}.scales"] = torch.from_numpy(scales)
        if not is_awq:
            order = rng.permutation(inputs).astype(np.int32) // group
            arrays[f"{name}.g_idx"] = torch.from_numpy(order)
    return arrays


def _gptq(folder: Path, bits: int, version: str) -> Difference:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    arrays = _random(bits, 64, is_awq=False)
    if version == "gptq":  # a zero point of 2^bits does not exist
        for name in [name for name in arrays if name.endswith("qzeros")]:
            arrays[name] &= 0x77777777 if bits == 4 else 0x7F7F7F7F
    quantization = {
        "quant_method": "gptq", "checkpoint_format": version, "bits": bits, "group_size": 64, "desc_act": True, "sym": False,
        "dataset": None,
    }  # fmt: skip
    _save(folder, arrays, quantization)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float16, quantization_config=transformers.GPTQConfig(bits=bits, backend="torch")
    )
    modules = {name: module for name, module in loaded.named_modules() if isinstance(module, TorchLinear)}
    there = {f"{name}.weight": module.dequantize_weight().T for name, module in modules.items()}
    return Difference(differences(decoded(folder), there))


def _awq(folder: Path) -> Difference:
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear

    quantization = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 64, "zero_point": True}
    _save(folder, _random(4, 64, is_awq=True), quantization)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float16, quantization_config=transformers.AwqConfig(bits=4, backend="torch_awq")
    )
    modules = {name: module for name, module in loaded.named_modules() if isinstance(module, AwqTorchLinear)}
    # The product with unit vectors is the weight.
    there = {f"{n}.weight": m(torch.eye(m.in_features, dtype=torch.float16)).T for n, m in modules.items()}
    return Difference(differences(decoded(folder), there))


def checks() -> Iterator[Check]:
    """Every layout that is read."""
    for dtype in (torch.float16, torch.bfloat16):
        yield Check(f"read: {str(dtype).removeprefix('torch.')}, in several files", partial(_plain, dtype=dtype))
    bitsandbytes = ("bitsandbytes", "accelerate")
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            name = f"read: bitsandbytes {kind}{', double quantization' * nested}"
            options = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}
            yield Check(name, partial(_bitsandbytes, options=options), bitsandbytes)
    eight = partial(_bitsandbytes, options={"load_in_8bit": True})
    yield Check("read: bitsandbytes int8", eight, bitsandbytes, weight_tolerance=_LAST_BIT)
    schemes: dict[str, dict[str, object]] = {
        f"int{bits}": {"num_bits": bits, "strategy": "channel", "symmetric": True} for bits in (8, 4, 3, 2)
    }
    grouped: dict[str, object] = {"num_bits": 4, "strategy": "group", "group_size": HIDDEN // 2}
    schemes["int4 in groups"] = grouped | {"symmetric": True}
    schemes["int4 in groups, asymmetric"] = grouped | {"symmetric": False}
    for form, scheme in schemes.items():
        run = partial(_compressed_tensors, scheme=scheme)
        yield Check(f"read: compressed-tensors {form}", run, ("compressed-tensors",))
    for kind in ("bitlinear", "autobitlinear"):
        yield Check(f"read: BitNet, {kind}", partial(_bitnet, kind=kind), ("accelerate",))
    gptq = ("gptqmodel", "optimum")
    for bits in (8, 4):
        for version in ("gptq", "gptq_v2"):
            yield Check(f"read: GPTQ int{bits}, {version}", partial(_gptq, bits=bits, version=version), gptq)
    yield Check("read: AWQ", _awq, gptq)
