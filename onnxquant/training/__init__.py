"""Quantization-aware training of an ONNX file: ``prepare`` makes a torch module of it, ``export`` the quantized file.

Everything here needs torch: the extra ``train``. It may import all rooms below; none imports it.
"""

from __future__ import annotations

from onnxquant.training.module import Exported, QuantizedModule, export, prepare
from onnxquant.tuning.optimizer import UnitAdam
from onnxquant.tuning.rounding import fake_quantize, round_to_levels

__all__ = ["Exported", "QuantizedModule", "UnitAdam", "export", "fake_quantize", "prepare", "round_to_levels"]
