"""Quantization-aware training of an ONNX file: ``prepare`` makes a torch module of it, ``export`` the quantized file.

``train`` is a loop for it; ``LearnedStepSize``, ``MovingMinMaxObserver`` and the layers, such as ``QuantizedLinear``, are for
any module. Everything here needs torch: the extra ``train``. It may import all rooms below; none imports it.
"""

from __future__ import annotations

from onnxquant.training.attention import QuantizedMultiheadAttention
from onnxquant.training.layers import QuantizedConv2d, QuantizedLinear
from onnxquant.training.learned_step_size import LearnedStepSize
from onnxquant.training.module import Exported, QuantizedModule, export, prepare
from onnxquant.training.replace_layers import quantize_layers
from onnxquant.training.schedule import Schedule
from onnxquant.training.statistics import LayerStatistics
from onnxquant.training.trainer import History, qat_loss, train
from onnxquant.tuning.optimizer import UnitAdam
from onnxquant.tuning.range_observer import MovingMinMaxObserver
from onnxquant.tuning.rounding import fake_quantize, round_to_levels

__all__ = [
    "Exported",
    "History",
    "LayerStatistics",
    "LearnedStepSize",
    "MovingMinMaxObserver",
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedModule",
    "QuantizedMultiheadAttention",
    "Schedule",
    "UnitAdam",
    "export",
    "fake_quantize",
    "prepare",
    "qat_loss",
    "quantize_layers",
    "round_to_levels",
    "train",
]
