"""Files of tensors without a graph: GGUF, safetensors, ``.q8k`` folders, AXQT; read, written, and turned into each other.

A container is one module of ``containers``; other packages register theirs through the entry point group
``onnxquant.containers``. The command line may import this room.
"""

from __future__ import annotations

from onnxquant.interchange.contents import CheckpointInfo, contents
from onnxquant.interchange.convert import Conversion, convert
from onnxquant.interchange.files import open_checkpoint
from onnxquant.interchange.quantize import CheckpointReport, quantize
from onnxquant.interchange.save import save
from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.interchange.transplant import TransplantReport, transplant
from onnxquant.interchange.verify import Verification, verify

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointReport",
    "Conversion",
    "Tensor",
    "TransplantReport",
    "Verification",
    "contents",
    "convert",
    "open_checkpoint",
    "quantize",
    "save",
    "transplant",
    "verify",
]
