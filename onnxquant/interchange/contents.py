"""The contents of a file of tensors: how many there are of which type, their sizes, and the metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.formats.base import Format
from onnxquant.interchange.convert import size_of
from onnxquant.interchange.files import open_checkpoint
from onnxquant.interchange.tensor import Tensor
from onnxquant.json_data import JsonObject, JsonValue

# Entries of a list, and characters of a text, that are shown of metadata.
_ENTRIES, _CHARACTERS = 8, 200


@dataclass(frozen=True)
class TensorInfo:
    """One tensor.

    Attributes:
        name: its name.
        type: format of its codes, or type of its numbers.
        shape: its shape.
        nbytes: bytes that its format takes for it.
        bits_per_weight: bits of an element, scales included.
        permuted: whether its columns are stored in another order.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int
    bits_per_weight: float
    permuted: bool = False


@dataclass(frozen=True)
class TypeInfo:
    """The tensors of one type.

    Attributes:
        type: format of their codes, or type of their numbers.
        tensors: number of tensors.
        elements: number of their elements.
        nbytes: bytes that the format takes for them.
        bits_per_weight: bits of an element, scales included.
    """

    type: str
    tensors: int
    elements: int
    nbytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class CheckpointInfo:
    """A file of tensors.

    Attributes:
        file: the file or folder.
        container: name of its container.
        nbytes: bytes of the file, or of all files that it is read from.
        elements: number of elements of all tensors.
        bits_per_weight: bits of an element, scales included.
        types: counts and sizes of each type, the most bytes first.
        metadata: entries beside the tensors; long ones are cut.
        notes: sentences about what a reader should know.
        tensors: the tensors in their order.
    """

    file: str
    container: str
    nbytes: int
    elements: int
    bits_per_weight: float
    types: tuple[TypeInfo, ...]
    metadata: JsonObject = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tensors: tuple[TensorInfo, ...] = ()


@checked
def contents(path: str | Path) -> CheckpointInfo:
    """The contents of a file of tensors, without reading their numbers.

    Raises:
        CheckpointError: it is no such file, or it is damaged.

    >>> import onnxquant, tempfile
    >>> from onnxquant.interchange import contents, save
    >>> file = f"{tempfile.mkdtemp()}/a.gguf"
    >>> weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    >>> save(file, {"w": onnxquant.encode(weight, "q4_0")}).tensors
    1
    >>> [(entry.type, entry.bits_per_weight) for entry in contents(file).types]
    [('q4_0', 4.5)]
    """
    checkpoint = open_checkpoint(path)
    tensors = tuple(_info(tensor) for tensor in checkpoint.tensors.values())
    sizes = {tensor.name: tensor.size for tensor in checkpoint.tensors.values()}
    by_type: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.type, []).append(tensor)
    types = [_type_info(label, group, sum(sizes[t.name] for t in group)) for label, group in by_type.items()]
    files = [file.path for file in checkpoint.files] or [checkpoint.path]
    elements = sum(sizes.values())
    return CheckpointInfo(
        str(path), checkpoint.container, sum(map(size_of, files)), elements,
        _bits(sum(tensor.nbytes for tensor in tensors), elements),
        tuple(sorted(types, key=lambda entry: -entry.nbytes)),
        {key: _shortened(checkpoint.metadata[key]) for key in checkpoint.metadata}, checkpoint.notes, tensors,
    )  # fmt: skip


def _info(tensor: Tensor) -> TensorInfo:
    permuted = isinstance(tensor.kind, Format) and tensor.kind.permuted
    bits = _bits(tensor.nbytes, tensor.size)
    return TensorInfo(tensor.name, tensor.label, tensor.shape, tensor.nbytes, bits, permuted)


def _type_info(label: str, tensors: Sequence[TensorInfo], elements: int) -> TypeInfo:
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return TypeInfo(label, len(tensors), elements, nbytes, _bits(nbytes, elements))


def _bits(nbytes: int, elements: int) -> float:
    return round(8 * nbytes / max(elements, 1), 4)


def _shortened(value: JsonValue) -> JsonValue:
    """A value of metadata of which only the beginning is shown where it is long."""
    if isinstance(value, list) and len(value) > _ENTRIES:
        return [*map(_shortened, value[:_ENTRIES]), f"... {len(value)} entries"]
    if isinstance(value, str) and len(value) > _CHARACTERS:
        return f"{value[:_CHARACTERS]}... {len(value)} characters"
    return value
