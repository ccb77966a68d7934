"""AIMET: batch norms folded, cross-layer equalization, per-channel INT8, exported as QDQ."""

from __future__ import annotations

import onnx
from aimet_onnx import QuantizationSimModel
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
from aimet_onnx.cross_layer_equalization import equalize_model

from peer_bench.job import Job, run


def convert(job: Job) -> None:
    """Simulate, calibrate, export."""
    model = onnx.load(job.model)
    try:
        equalize_model(model)
    except Exception as error:  # encoders have nothing to equalize; some graphs it does not understand
        job.notes.append(f"without equalization: {error}")
        model = onnx.load(job.model)
        fold_all_batch_norms_to_weight(model)
    simulation = QuantizationSimModel(
        model, param_type="int8", activation_type="int8", config_file=get_path_for_per_channel_config()
    )
    simulation.compute_encodings(job.feeds())
    onnx.save(simulation.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), job.output)


if __name__ == "__main__":
    run("aimet-onnx", convert)
