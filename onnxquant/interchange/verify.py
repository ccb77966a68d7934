"""Whether a file of tensors is whole: each tensor is read, and compared with its checksum where the file has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxquant.arguments import checked
from onnxquant.errors import OnnxQuantError
from onnxquant.formats.base import Encoded
from onnxquant.interchange.files import open_checkpoint
from onnxquant.interchange.ggml_types import Opaque
from onnxquant.interchange.reading import in_turn
from onnxquant.interchange.tensor import Tensor, is_float
from onnxquant.numerics.arrays import Array
from onnxquant.recipe.progress import Progress, silent

# Numbers that are looked at at a time.
_PART = 1 << 20


@dataclass(frozen=True)
class DamagedTensor:
    """A tensor that is not whole.

    Attributes:
        name: its name.
        reason: its fault, in a sentence.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """The state of a file of tensors whose structure and sizes are right; with others there is none.

    Attributes:
        file: the file or folder.
        container: name of its container.
        tensors: number of its tensors.
        has_checksums: whether all of them were compared with checksums.
        damaged: those that are not whole.
        not_decoded: those of types whose codes are not known here; only their sizes were compared.
    """

    file: str
    container: str
    tensors: int
    has_checksums: bool
    damaged: tuple[DamagedTensor, ...] = ()
    not_decoded: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no tensor is damaged."""
        return not self.damaged


@checked
def verify(path: str | Path, *, progress: Progress = silent) -> Verification:
    """Read every tensor of a file: its checksum, that its codes have a meaning, and that its scales are finite.

    Plain floats are damaged where one is NaN; infinity stands in masks. One tensor is in memory at a time.

    Args:
        path: a GGUF or safetensors file, a folder of safetensors or ``.q8k`` files, an AXQT file.
        progress: called with the part that is done.

    Raises:
        CheckpointError: it is no such file, its structure is damaged, or it is cut off.

    >>> import onnxquant, tempfile
    >>> from onnxquant.interchange import save, verify
    >>> file = f"{tempfile.mkdtemp()}/a.axqt"
    >>> weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    >>> save(file, {"w": onnxquant.encode(weight, "q4_0")}).tensors
    1
    >>> verify(file).passed
    True
    """
    checkpoint = open_checkpoint(path)
    tensors = in_turn(list(checkpoint.tensors.values()), checkpoint.files, "verifying tensors", progress)
    faults = [(tensor.name, _fault(tensor)) for tensor in tensors]
    return Verification(
        str(path), checkpoint.container, len(tensors), checkpoint.has_checksums,
        tuple(DamagedTensor(name, fault) for name, fault in faults if fault is not None),
        tuple(tensor.name for tensor in tensors if isinstance(tensor.kind, Opaque)),
    )  # fmt: skip


def _fault(tensor: Tensor) -> str | None:
    """The fault of a tensor; None: it has none."""
    try:
        if isinstance(tensor.kind, Opaque):
            if tensor.blocks is not None:
                tensor.blocks().checked()
            return None
        value = tensor.load()
    except OnnxQuantError as error:
        return str(error)
    if not isinstance(value, Encoded):
        place = _first(np.isnan, value) if is_float(value.dtype) else None
        return None if place is None else f"element {place} is NaN; expected a number"
    for name, plane in value.planes.items():
        place = _first(_is_not_finite, plane) if is_float(plane.dtype) else None
        if place is not None:
            return f"element {place} of its {name} is {plane[tuple(place)]}; expected a finite number"
    return None


def _is_not_finite(values: Array) -> Array:
    return ~np.isfinite(values)


def _first(is_wrong: Callable[[Array], Array], array: Array) -> list[int] | None:
    """The place of the first number that is wrong; None: there is none."""
    flat = array.reshape(-1)
    for begin in range(0, flat.size, _PART):
        wrong = is_wrong(flat[begin : begin + _PART])
        if wrong.any():
            return [int(i) for i in np.unravel_index(begin + int(wrong.argmax()), array.shape)]
    return None
