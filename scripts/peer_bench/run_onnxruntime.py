"""onnxruntime's quantize_static (QDQ, u8s8, per channel, after its quant_pre_process) and quantize_dynamic."""

from __future__ import annotations

import tempfile
from pathlib import Path

from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from peer_bench.job import Job, Reader, run
from peer_bench.preprocess import preprocess


def convert(job: Job) -> None:
    """Pre-process, then quantize."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            preprocess(job.model, prepared)
        except Exception as error:  # "Incomplete symbolic shape inference": its own advice is to go without
            job.notes.append(f"quant_pre_process without symbolic shapes: {error}")
            preprocess(job.model, prepared, skip_symbolic_shape=True)
        if job.options["method"] == "dynamic":
            quantize_dynamic(prepared, job.output, per_channel=True, weight_type=QuantType.QInt8)
            return
        quantize_static(
            prepared,
            job.output,
            Reader(job.feeds()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[job.options["method"]],
            extra_options=job.options.get("extra", {}),
        )


if __name__ == "__main__":
    run("onnxruntime", convert)
