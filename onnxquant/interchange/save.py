"""Arrays and encoded weights as a file of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnxquant.arguments import checked
from onnxquant.errors import RecipeError, shown
from onnxquant.formats.base import Encoded
from onnxquant.interchange.convert import Conversion, convert
from onnxquant.interchange.tensor import Checkpoint, Tensor, Value, encoded_tensor, plain
from onnxquant.json_data import JsonValue


@checked
def save(
    output: str | Path,
    tensors: Mapping[str, Value],
    *,
    to: str | None = None,
    metadata: Mapping[str, JsonValue] | None = None,
    force: bool = False,
) -> Conversion:
    """Write arrays and encoded weights as one file.

    Args:
        output: file or folder to write.
        tensors: arrays, and weights as ``onnxquant.encode`` gives them, by name.
        to: name of the container; None: the end of the output's name says it.
        metadata: texts and numbers that the file says beside its tensors.
        force: replace an existing output.

    Raises:
        RecipeError: a name is no text, or the metadata is more than JSON.
        CheckpointError: the container cannot hold a tensor.
        OutputError: the output is there already, or cannot be written.
    """
    for name in (*tensors, *(metadata or {})):
        if not isinstance(name, str):
            raise RecipeError(f"name {shown(name)}: expected text")
    try:
        json.dumps(dict(metadata or {}))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"metadata is no JSON: {error}; expected texts, numbers, lists and mappings of them") from None
    values = {name: _tensor(name, value) for name, value in tensors.items()}
    source = Checkpoint(Path("arrays in memory"), "memory", values, metadata or {})
    return convert(source, output, to=to, force=force)


def _tensor(name: str, value: Value) -> Tensor:
    return encoded_tensor(name, value) if isinstance(value, Encoded) else plain(name, np.asarray(value))
