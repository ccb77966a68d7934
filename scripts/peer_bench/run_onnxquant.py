"""Our own conversion, in a process like the peers'."""

from __future__ import annotations

import onnxquant
from peer_bench.job import Job, run


def convert(job: Job) -> None:
    """Quantize with the job's options; all others at their defaults, the proof included."""
    report = onnxquant.quantize(job.model, job.output, data=job.arrays, force=True, **job.options)
    job.notes += report.problems


if __name__ == "__main__":
    run("onnxquant", convert)
