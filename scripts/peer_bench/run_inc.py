"""ONNX Neural Compressor's static quantization: QDQ, per channel, minmax."""

from __future__ import annotations

from onnx_neural_compressor.data_reader import CalibrationDataReader
from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

from peer_bench.job import Job, Reader, run


class Samples(Reader, CalibrationDataReader):  # type: ignore[misc]  # untyped
    """Samples as it asks for them."""


def convert(job: Job) -> None:
    """Quantize with its defaults, but QDQ and per channel as the others."""
    settings = config.StaticQuantConfig(
        calibration_data_reader=Samples(job.feeds()),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    quantize(str(job.model), str(job.output), settings)


if __name__ == "__main__":
    run("onnx-neural-compressor", convert)
