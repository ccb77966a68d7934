"""AIMET's AdaRound and sequential MSE on an ONNX file: per channel, exported as QDQ.

Options: ``bits`` of weights; ``activations``, whether they are 8-bit integers; ``method``, "none", "adaround" or "seqmse";
``samples`` that are learned from, and ``steps`` of each layer.
"""

from __future__ import annotations

import onnx
from aimet_onnx import QuantizationSimModel, apply_adaround, apply_seq_mse
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config

from peer_bench.job import BATCH, Job, joined, run


def convert(job: Job) -> None:
    """Simulate, calibrate, learn, export."""
    model, options = onnx.load(job.model), job.options
    fold_all_batch_norms_to_weight(model)
    simulation = QuantizationSimModel(
        model,
        param_type=f"int{options['bits']}",
        activation_type="int8",
        config_file=get_path_for_per_channel_config(),
    )
    if not options["activations"]:
        for name in simulation.activation_names:
            simulation.qc_quantize_op_dict[name].enabled = False
    simulation.compute_encodings(job.feeds())
    batches = joined(job.feeds()[: options.get("samples")], BATCH)
    if options["method"] == "adaround":
        apply_adaround(simulation, batches, num_iterations=options["steps"])
    elif options["method"] == "seqmse":
        apply_seq_mse(simulation, batches)
    written = simulation.to_onnx_qdq(export_int32_bias=options["activations"], prequantize_constants=True)
    onnx.save(written, job.output)


if __name__ == "__main__":
    run("aimet-onnx", convert)
