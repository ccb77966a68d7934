"""AMD Quark's INT8 for CPUs: a preset by name, and what the job changes in it."""

from __future__ import annotations

import copy

from quark.onnx import ModelQuantizer, QConfig

from peer_bench.job import Job, Reader, run


def convert(job: Job) -> None:
    """Quantize with the preset."""
    config = copy.deepcopy(QConfig.get_default_config(job.options["preset"]))
    for name, value in job.options.get("changes", {}).items():
        setattr(config.global_quant_config, name, value)
    ModelQuantizer(config).quantize_model(str(job.model), str(job.output), Reader(job.feeds()))


if __name__ == "__main__":
    run("amd-quark", convert)
