"""The ways of quantizing that are compared: ours by the command line, onnxruntime's by its functions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from peer_bench.job import Reader
from peer_bench.preprocess import preprocess

from onnxquant.cli import main as onnxquant_main

from .sources import Files


@dataclass(frozen=True)
class Mode:
    """A way of quantizing, ours and onnxruntime's beside it.

    Attributes:
        arguments: arguments of our command line.
        has_samples: whether the samples are given to it.
        peer: onnxruntime's way; None where it has none.
    """

    name: str
    arguments: tuple[str, ...] = ()
    has_samples: bool = False
    peer: Callable[[Files, Path], None] | None = None


def ours(mode: Mode, files: Files, output: Path, report: Path) -> None:
    """Quantize by the command line."""
    arguments = ["quantize", str(files.model), "-o", str(output), "--report", str(report), "--force", "--threads", "1"]
    arguments += [*mode.arguments, *(["--data", str(files.calibration)] if mode.has_samples else [])]
    onnxquant_main(arguments)


def _prepared(files: Files, folder: str) -> Path:
    """The model after onnxruntime's own preparation, or as it is where that fails."""
    prepared = Path(folder) / "prepared.onnx"
    for options in ({}, {"skip_symbolic_shape": True}, {"skip_symbolic_shape": True, "skip_optimization": True}):
        try:
            preprocess(files.model, prepared, **options)
            return prepared
        except Exception as error:  # "Incomplete symbolic shape inference": its own advice is to go without
            print(f"preprocess {options}: {error}")
    return files.model


def _reader(files: Files) -> Reader:
    with np.load(files.calibration) as data:
        arrays = {name: data[name] for name in data.files}
    count = len(next(iter(arrays.values())))
    return Reader([{name: np.asarray(array[i]) for name, array in arrays.items()} for i in range(count)])


def static(files: Files, output: Path) -> None:
    """quantize_static: QDQ, uint8 activations, int8 weights, per channel."""
    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            _prepared(files, folder),
            output,
            _reader(files),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def dynamic(files: Files, output: Path) -> None:
    """quantize_dynamic of products, int8 weights, per channel."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = ["MatMul", "Gemm", "LSTM", "Gather", "Attention", "EmbedLayerNormalization"]
        quantize_dynamic(
            _prepared(files, folder), output, op_types_to_quantize=kinds, per_channel=True, weight_type=QuantType.QInt8
        )


def four_bits(files: Files, output: Path, *, symmetric: bool = False) -> None:
    """MatMulNBitsQuantizer in blocks of 32."""
    quantizer = nbits.MatMulNBitsQuantizer(
        onnx.load(files.model), bits=4, block_size=32, is_symmetric=symmetric, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(output), use_external_data_format=False)


MODES = (
    Mode("default"),
    Mode("bits4", ("--bits", "4"), peer=four_bits),
    Mode("q4_0", ("--format", "q4_0"), peer=lambda files, output: four_bits(files, output, symmetric=True)),
    Mode("static", ("--activations", "static"), True, static),
    Mode("dynamic", ("--activations", "dynamic"), True, dynamic),
)
