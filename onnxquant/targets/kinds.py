"""The kinds of activations that encoded weights are multiplied with."""

from __future__ import annotations

from enum import StrEnum


class Activations(StrEnum):
    """The state in which activations reach a product. The values are the texts of options and of files."""

    NONE = "none"
    """They stay floats."""

    STATIC = "static"
    """Integers, by ranges that calibration found."""

    DYNAMIC = "dynamic"
    """Integers, by the range that they have in each call."""

# The operator of com.microsoft that is an LSTM on integer weights.
LSTM_ON_INTEGERS = "DynamicQuantizeLSTM"
# The operator of com.microsoft that is a layer of experts whose weights are codes.
EXPERTS_ON_CODES = "QMoE"
# The last opset whose QuantizeLinear and DequantizeLinear onnxruntime 1.32 has.
LAST_DEQUANTIZE_OPSET = 27
