"""The seal of a file: hashes of its tensors, and one of the metadata entries that describe it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import onnx

from onnxquant.graph.names import HASHES, METADATA, ORIGIN, PREPARATION, SEAL
from onnxquant.graph.traverse import replace_field

_SEALED = (METADATA, ORIGIN, PREPARATION, HASHES)


def seal(proto: onnx.ModelProto, hashes: Mapping[str, str]) -> None:
    """Add the hashes of a model's tensors and that of its metadata; of entries that an earlier run left the last one stays.

    Args:
        proto: the model, complete but for these entries.
        hashes: hash by name of the tensor.
    """
    proto.metadata_props.add(key=HASHES, value=json.dumps(hashes, separators=(",", ":")) if hashes else "")
    last = {entry.key: i for i, entry in enumerate(proto.metadata_props)}
    ours = (*_SEALED, SEAL)
    entries = [
        e for i, e in enumerate(proto.metadata_props) if e.key not in ours or (e.key != SEAL and last[e.key] == i)
    ]
    replace_field(proto.metadata_props, [e for e in entries if e.key != HASHES or e.value])
    proto.metadata_props.add(key=SEAL, value=_digest(proto))


def is_sealed(proto: onnx.ModelProto) -> bool | None:
    """Whether the metadata is as it was written; None where the file does not say: it is not ours, or old."""
    stored = [entry.value for entry in proto.metadata_props if entry.key == SEAL]
    return None if not stored else stored == [_digest(proto)]


def _digest(proto: onnx.ModelProto) -> str:
    """Hash of the entries that describe a file of ours."""
    entries = sorted((entry.key, entry.value) for entry in proto.metadata_props if entry.key in _SEALED)
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def note_hash(hashes: dict[str, str], name: str, digest: str) -> None:
    """Record a tensor's hash; graphs beside each other may use one name twice, then hashes are joined by commas."""
    hashes[name] = f"{hashes[name]},{digest}" if name in hashes else digest
