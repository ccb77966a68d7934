"""AMD Quark's fast finetuning of an ONNX file, AdaRound or AdaQuant: static INT8, per channel.

Options: ``preset``; ``method``, "none", "adaround" or "adaquant"; ``samples`` that are learned from, and ``steps`` of each
layer.
"""

from __future__ import annotations

import copy

from quark.onnx import ModelQuantizer, QConfig

from peer_bench.job import BATCH, Job, Reader, run

# Its own defaults: https://quark.docs.amd.com, DEFAULT_ADAROUND_PARAMS and DEFAULT_ADAQUANT_PARAMS.
RATES = {"adaround": 0.1, "adaquant": 1e-5}


def convert(job: Job) -> None:
    """Quantize with the preset, and learn."""
    options = job.options
    config = copy.deepcopy(QConfig.get_default_config(options["preset"]))
    settings = config.global_quant_config
    settings.per_channel = True
    if options["method"] in RATES:
        settings.include_fast_ft = True
        settings.extra_options["FastFinetune"] = {
            "OptimAlgorithm": options["method"],
            "LearningRate": RATES[options["method"]],
            "DataSize": options["samples"],
            "BatchSize": BATCH,
            "NumIterations": options["steps"],
        }
    ModelQuantizer(config).quantize_model(str(job.model), str(job.output), Reader(job.feeds()))


if __name__ == "__main__":
    run("amd-quark", convert)
