"""Runs on buffers that stay where they are: what one run writes, the next one reads without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from onnxquant.errors import ModelError
from onnxquant.runtime.sessions import Session, first_line, is_out_of_memory

Buffer: TypeAlias = ort.OrtValue


def zeros(shape: Sequence[int], dtype: DTypeLike) -> Buffer:
    """A buffer of zeros."""
    return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))


def run_on_buffers(
    session: Session,
    feed: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, Buffer],
    outputs: Mapping[str, Buffer | None],
) -> dict[str, Buffer]:
    """Run a session on arrays and buffers.

    Args:
        session: a session on a model.
        feed: arrays by input name.
        inputs: buffers by input name.
        outputs: buffers that outputs are written to; None: a new one. A buffer may be an input and an output where the
            operators allow that.

    Returns:
        the outputs, in the order of ``outputs``.

    Raises:
        ModelError: onnxruntime fails on them.
        MemoryError: they, or what the graph computes from them, do not fit into memory.
    """
    try:
        binding = session.io_binding()
        for name, array in feed.items():
            # Arrays bound as such may be no inputs with a default.
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        for name, place in outputs.items():
            if place is None:
                binding.bind_output(name)
            else:
                binding.bind_ortvalue_output(name, place)
        session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base class
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from None
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from None
