"""Hashes of a quantized file's tensors, and of encoded weights."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from onnxquant.arguments import checked
from onnxquant.artifact.records import Metadata
from onnxquant.errors import ModelError
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document, load, nbytes
from onnxquant.graph.names import HASHES
from onnxquant.graph.seal import is_sealed
from onnxquant.graph.traverse import tensors
from onnxquant.recipe.progress import Progress, silent

# Name under which ``verify`` reports on the metadata.
METADATA_ENTRY = "metadata"


@checked
def verify(path: str | Path, *, progress: Progress = silent) -> dict[str, bool]:
    """Check the stored hash of every tensor of a file of ours, and that of its metadata; True where it holds.

    Args:
        path: the file.
        progress: called with the name of the stage and the part of it that is done.

    Raises:
        ModelError: the file is not ours, or a tensor with a hash is missing.
    """
    document = load(path)
    whole = is_sealed(document.proto)
    if whole is None:
        Metadata.read(document.proto)  # an old file's entries have no hash, but they are to be readable
    if whole is False:
        return {METADATA_ENTRY: False}  # the hashes of tensors are part of it
    results = check_hashes(document, progress)
    if not results and whole is None:
        raise ModelError(f"{path}: holds no hashes; only files written by onnxquant do")
    return results if whole is None else {**results, METADATA_ENTRY: True}


def check_hashes(document: Document, progress: Progress = silent) -> dict[str, bool]:
    """Whether each tensor with a stored hash still has it; empty where there are none.

    Args:
        document: the file.
        progress: called with the name of the stage and the part of it that is done.

    Raises:
        ModelError: the entry that holds the hashes is damaged.
    """
    expected = _stored_hashes(document)
    actual: dict[str, list[str]] = defaultdict(list)
    hashed = [tensor for tensor in tensors(document.proto) if tensor.name in expected]
    done, total = 0, max(sum(nbytes(tensor) for tensor in hashed), 1)
    for tensor in hashed:
        progress("verifying tensors", done / total)
        raw = document.raw(tensor)
        actual[tensor.name].append(hashlib.sha256(raw if raw is not None else b"").hexdigest())
        done += nbytes(tensor)
    # Tensors of nested graphs may share a name; their hashes are joined by commas.
    return {name: sorted(actual[name]) == sorted(hashes.split(",")) for name, hashes in expected.items()}


def _stored_hashes(document: Document) -> dict[str, str]:
    text = next((e.value for e in document.proto.metadata_props if e.key == HASHES), "{}")
    try:
        hashes = json.loads(text)
        if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
            raise ValueError("expected a table of texts")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{document.name}: its hashes are damaged: {error}") from None
    return hashes


def planes_digest(encoded: Encoded) -> str:
    """Hash of an encoded weight's planes, the same in every layout."""
    out = hashlib.sha256()
    for name, plane in sorted(encoded.planes.items()):
        out.update(f"{name} {plane.dtype} {plane.shape}".encode())
        out.update(np.ascontiguousarray(plane).reshape(-1).view(np.uint8).data)
    return out.hexdigest()
