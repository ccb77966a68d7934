"""onnxquant stores the weights of ONNX models in fewer bits, and proves what that cost."""

from __future__ import annotations

from onnxquant.system import interrupts  # noqa: F401 - first of all: it handles Ctrl-C

# isort: split
from onnxquant import formats, targets
from onnxquant.artifact.hashes import verify
from onnxquant.artifact.restore import dequantize
from onnxquant.batch.run import BatchReport, batch
from onnxquant.calibration.arrays import calibrate_arrays
from onnxquant.calibration.calibrate import calibrate
from onnxquant.calibration.statistics import Statistics
from onnxquant.convert.best import quantize
from onnxquant.errors import (
    CheckpointError,
    FeedError,
    ModelError,
    NativeLibraryError,
    OnnxQuantError,
    OutputError,
    RecipeError,
    ReportError,
    StatisticsError,
    WeightError,
)
from onnxquant.formats import Encoded, Format
from onnxquant.formats.bitsandbytes.state import (
    BitsAndBytesTensor,
    Int8State,
    QuantState,
    from_bitsandbytes,
    to_bitsandbytes,
)
from onnxquant.formats.i2_s import decode_trit, encode_trit
from onnxquant.formats.tensor_statistics import TensorStatistics
from onnxquant.graph.move import move
from onnxquant.hub.report import HubReport
from onnxquant.hub.run import hub
from onnxquant.inspect.benchmark import benchmark
from onnxquant.inspect.info import info
from onnxquant.inspect.model import Model
from onnxquant.inspect.profile import profile
from onnxquant.inspect.validate import validate
from onnxquant.layers.linear import QuantizedLinear
from onnxquant.layers.ternary import Int8Rows, matmul_i2s, matmul_i2s_i8, quantize_row_to_int8
from onnxquant.native.arrays import decode, encode, snr
from onnxquant.native.library import library_path
from onnxquant.observers import ActivationGrid, QuantizationParameters, ranging_observer
from onnxquant.observers.clip import clip_weight
from onnxquant.report.report import Report
from onnxquant.runtime import load
from onnxquant.version import __version__

__all__ = [
    "ActivationGrid",
    "BatchReport",
    "BitsAndBytesTensor",
    "CheckpointError",
    "Encoded",
    "FeedError",
    "Format",
    "HubReport",
    "Int8Rows",
    "Int8State",
    "Model",
    "ModelError",
    "NativeLibraryError",
    "OnnxQuantError",
    "OutputError",
    "QuantState",
    "QuantizationParameters",
    "QuantizedLinear",
    "RecipeError",
    "Report",
    "ReportError",
    "Statistics",
    "StatisticsError",
    "TensorStatistics",
    "WeightError",
    "__version__",
    "batch",
    "benchmark",
    "calibrate",
    "calibrate_arrays",
    "clip_weight",
    "decode",
    "decode_trit",
    "dequantize",
    "encode",
    "encode_trit",
    "formats",
    "from_bitsandbytes",
    "hub",
    "info",
    "library_path",
    "load",
    "matmul_i2s",
    "matmul_i2s_i8",
    "move",
    "profile",
    "quantize",
    "quantize_row_to_int8",
    "ranging_observer",
    "snr",
    "targets",
    "to_bitsandbytes",
    "validate",
    "verify",
]
