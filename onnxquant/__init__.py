"""onnxquant stores the weights of ONNX models in fewer bits, and proves what that cost."""

from __future__ import annotations

from onnxquant.api import Model, benchmark, dequantize, info, library_path, validate, verify
from onnxquant.convert import quantize
from onnxquant.errors import (
    FeedError,
    ModelError,
    NativeLibraryError,
    OnnxQuantError,
    OutputError,
    RecipeError,
    WeightError,
)
from onnxquant.formats import Encoded, Format, decode, encode, formats
from onnxquant.report.data import Report
from onnxquant.runtime import load
from onnxquant.targets import targets
from onnxquant.version import __version__

__all__ = [
    "Encoded",
    "FeedError",
    "Format",
    "Model",
    "ModelError",
    "NativeLibraryError",
    "OnnxQuantError",
    "OutputError",
    "RecipeError",
    "Report",
    "WeightError",
    "__version__",
    "benchmark",
    "decode",
    "dequantize",
    "encode",
    "formats",
    "info",
    "library_path",
    "load",
    "quantize",
    "targets",
    "validate",
    "verify",
]
