"""onnxruntime's own preparation of a model for its quantizers."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from onnxruntime.quantization.shape_inference import quant_pre_process


def preprocess(model: Path, output: Path, **options: bool) -> None:
    """Prepare a model.

    The current folder is meanwhile that of the output: where shapes stay unknown, onnxruntime leaves files in it.

    Args:
        model: file of the model.
        output: file that is written.
        options: options of quant_pre_process.
    """
    model, output = model.resolve(), output.resolve()
    with chdir(output.parent):
        quant_pre_process(model, output, **options)
