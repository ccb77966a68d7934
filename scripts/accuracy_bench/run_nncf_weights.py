"""NNCF's weight compression of an ONNX model; all layers in the job's mode, the embedding and the head too."""

from __future__ import annotations

import nncf
import onnx
from peer_bench.job import Job, run


def convert(job: Job) -> None:
    """Compress and save."""
    options = dict(job.options)
    mode = nncf.CompressWeightsMode[options.pop("mode")]
    dataset = nncf.Dataset(job.feeds()) if options.pop("data", False) else None
    model = nncf.compress_weights(onnx.load(job.model), mode=mode, dataset=dataset, **options)
    onnx.save(model, job.output)


if __name__ == "__main__":
    run("nncf", convert)
