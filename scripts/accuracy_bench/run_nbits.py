"""onnxruntime's MatMulNBitsQuantizer: weights of matrix products in 4 bits, by the algorithm that the job names."""

from __future__ import annotations

from typing import Any

import onnx
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from peer_bench.job import Job, Reader, run


def convert(job: Job) -> None:
    """Quantize and save."""
    options = dict(job.options)
    algorithm, block, symmetric = (
        options.pop(k, d) for k, d in (("algorithm", ""), ("block", 32), ("symmetric", False))
    )
    feeds = job.feeds()[: options.pop("samples", None)]
    configs: dict[str, Any] = {
        "rtn": lambda: nbits.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, **options),
        "k_quant": lambda: nbits.KQuantWeightOnlyQuantConfig(**options),
        "hqq": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=block, **options),
        "gptq": lambda: nbits.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(feeds), **options),
    }
    model = onnx.load(job.model)
    quantizer = nbits.MatMulNBitsQuantizer(
        model, block_size=block, is_symmetric=symmetric, algo_config=configs[algorithm]()
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(job.output), use_external_data_format=False)


if __name__ == "__main__":
    run("onnxruntime", convert)
