"""NNCF's post-training quantization of an ONNX model, defaults; encoders as its documentation says for transformers."""

from __future__ import annotations

import nncf
import onnx

from peer_bench.job import Job, run


def convert(job: Job) -> None:
    """Quantize and save."""
    kind = nncf.ModelType.TRANSFORMER if job.encoder else None
    model = nncf.quantize(onnx.load(job.model), nncf.Dataset(job.feeds()), model_type=kind)
    onnx.save(model, job.output)


if __name__ == "__main__":
    run("nncf", convert)
