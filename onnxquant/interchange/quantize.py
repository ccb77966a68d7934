"""Quantization of a file of floats that has no graph: each weight by itself, with two checks of each."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from statistics import fmean

import numpy as np

from onnxquant.arguments import checked
from onnxquant.errors import CheckpointError, FeedError, RecipeError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.bitsandbytes.block_table import BlockTable
from onnxquant.interchange.container import Container
from onnxquant.interchange.convert import Conversion, convert
from onnxquant.interchange.files import container_for, open_checkpoint
from onnxquant.interchange.gguf_metadata import GgufMetadata
from onnxquant.interchange.orders import STRATEGIES, Orders
from onnxquant.interchange.same_codes import as_held
from onnxquant.interchange.tensor import Tensor
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Array
from onnxquant.recipe.progress import Progress, silent
from onnxquant.validation.checks import check

# Elements of the smallest weight that is quantized.
_LEAST_ELEMENTS = 1024
# Ends of the names of tensors that 8-bit floats of another tensor are to be multiplied by.
_SCALES = ("_scale", "_scale_inv")


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight that was quantized, and what its checks say.

    Attributes:
        name: name in the file.
        format: name of its format.
        mse: mean square of its error.
        sqnr_db: signal over error, in decibels.
        complaint: a defect that the checks show; None where they show none.
        doubt: a warning; None where there is none.
    """

    name: str
    format: str
    mse: float
    sqnr_db: float
    complaint: str | None = None
    doubt: str | None = None


@dataclass(frozen=True)
class CheckpointReport:
    """A file of quantized tensors.

    Attributes:
        file: the file that was written.
        source_bytes: bytes of the tensors of the source.
        quantized: the quantized weights.
        seconds: seconds that it took.
    """

    file: Conversion
    source_bytes: int
    quantized: tuple[QuantizedTensor, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the checks of no weight show a defect."""
        return not any(tensor.complaint for tensor in self.quantized)

    @property
    def mean_mse(self) -> float:
        """Mean over the weights of their mean square error."""
        return fmean(tensor.mse for tensor in self.quantized)

    @property
    def tensors_per_second(self) -> float:
        """Weights that were encoded, checked and written in a second."""
        return len(self.quantized) / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Choice:
    """The part of a checkpoint that is quantized, and its format.

    Attributes:
        format: format of the weights.
        include: patterns of names; empty: all.
        exclude: patterns of names that stay as they are.
        min_elements: smaller weights stay as they are.
        permutation: order of columns, one of ``norm``, ``activation``, ``attention``; None: the original one.
        activations: size of what each column is multiplied with, by the name of the weight, or a ``.npz`` of that.
    """

    format: Format
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    min_elements: int = _LEAST_ELEMENTS
    permutation: str | None = None
    activations: Mapping[str, Array] | str | Path | None = None

    def __post_init__(self) -> None:
        """Check that options suit each other.

        Raises:
            RecipeError: they do not.
        """
        if self.permutation is not None and self.permutation not in STRATEGIES:
            raise RecipeError(f"permutation {self.permutation!r}: expected one of {', '.join(STRATEGIES)}")
        if (self.permutation == "activation") != (self.activations is not None):
            raise RecipeError("permutation 'activation' and the sizes of activations go together: give both or none")
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise RecipeError(f"{pattern!r} is no pattern: {error}") from None

    def takes(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of the weights that are quantized."""
        if not tensor.is_float or len(tensor.shape) < 2 or tensor.size < self.min_elements:
            return False
        if self.include and not any(re.search(pattern, tensor.name) for pattern in self.include):
            return False
        return not any(re.search(pattern, tensor.name) for pattern in self.exclude)


@checked
def quantize(
    source: str | Path,
    output: str | Path,
    format: str | Format = "int8",
    *,
    to: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_elements: int = _LEAST_ELEMENTS,
    permutation: str | None = None,
    activations: Mapping[str, Array] | str | Path | None = None,
    leave_out: bool = False,
    force: bool = False,
    shard_bytes: int | None = None,
    progress: Progress = silent,
    **parameters: object,
) -> CheckpointReport:
    """Quantize the weights of a file of floats, and write them with the rest in a container that holds the format.

    A weight is a float tensor with two axes or more; one of more axes is encoded along all inputs of an output channel
    where the container allows it. Each is encoded, decoded and checked by a product and by ramps (``validation.checks``);
    one is in memory at a time.

    Args:
        source: a safetensors or GGUF file, or a folder of them.
        output: file or folder to write.
        format: a format or its name.
        to: name of the container; None: the end of the output's name says it.
        include: pattern or patterns of names; empty: all.
        exclude: pattern or patterns of names that stay in float.
        min_elements: smaller weights stay in float.
        permutation: order in which columns are stored: ``norm``, ``activation`` or ``attention``.
        activations: size of what each column is multiplied with, [columns] by the name of the weight, or a ``.npz`` of that.
        leave_out: leave tensors out that the container cannot hold.
        force: replace an existing output.
        shard_bytes: bytes of the largest file of a folder of safetensors; None: 5 GB.
        progress: called with the part that is done.
        parameters: parameters of the format by name.

    Raises:
        CheckpointError: the source is damaged, or nothing in it can be quantized.
        RecipeError: options do not suit each other.
        WeightError: a weight holds NaN, infinity, or values beyond the format.
    """
    begin = time.perf_counter()
    form = format_named(format, **parameters) if isinstance(format, str) else format.with_(**parameters)
    choice = Choice(form, _patterns(include), _patterns(exclude), min_elements, permutation, activations)
    container = container_for(Path(output), to)
    checkpoint = open_checkpoint(source)
    work = _Work(
        choice, container, Orders(permutation, checkpoint.tensors, _sizes(activations)), checkpoint.tensors.keys()
    )
    tensors = {name: work.quantized(tensor) for name, tensor in checkpoint.tensors.items()}
    if not work.weights:
        raise CheckpointError(f"{source}: {work.why_nothing(len(tensors))}")
    metadata = checkpoint.metadata
    if isinstance(metadata, GgufMetadata):
        metadata = metadata.of_format(form.name)
    file = convert(
        replace(checkpoint, tensors=tensors, metadata=metadata), output, to=to, leave_out=leave_out, force=force,
        shard_bytes=shard_bytes, progress=progress,
    )  # fmt: skip
    size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    return CheckpointReport(file, size, tuple(work.results), time.perf_counter() - begin)


@dataclass
class _Work:
    """The quantization of one checkpoint."""

    choice: Choice
    container: type[Container]
    orders: Orders
    names: Set[str]
    weights: int = 0
    results: list[QuantizedTensor] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def quantized(self, tensor: Tensor) -> Tensor:
        """The tensor with codes, made when they are asked for; itself where it stays as it is."""
        if not self.choice.takes(tensor):
            return tensor
        if scale := next((name for end in _SCALES if (name := tensor.name + end) in self.names), None):
            raise CheckpointError(
                f"tensor {tensor.name}: its numbers are to be multiplied by {scale}; quantize the original model, "
                f"or leave it as it is (--exclude)"
            )
        form = self.choice.format.with_(permuted=self.choice.permutation is not None)
        for shape in dict.fromkeys([_by_channel(tensor.shape), tensor.matrix_shape, *_by_block(form, tensor.size)]):
            coded = replace(
                tensor, kind=form, load=_Encoder(self, tensor, shape), blocks=None, matrix=shape,
                original_dtype=tensor.label,
            )  # fmt: skip
            reason = form.unfit(*shape) or self.container.why_not(as_held(self.container, coded))
            if reason is None:
                self.weights += 1
                return coded
        self.reasons.setdefault(str(reason), tensor.name)
        return tensor

    def why_nothing(self, count: int) -> str:
        """The reason why no weight is quantized."""
        reasons = "; ".join(f"{name}: {reason}" for reason, name in list(self.reasons.items())[:3])
        return f"none of {count} tensors can be {self.choice.format.name} in {self.container.name}" + (
            f" ({reasons})" if reasons else "; expected floats of two axes or more"
        )


@dataclass
class _Encoder:
    """A function that encodes a weight and notes what its checks say."""

    work: _Work
    tensor: Tensor
    shape: tuple[int, int]

    def __call__(self) -> Encoded:
        name = self.tensor.name
        flat = self.tensor.array().reshape(-1)
        filler = prod(self.shape) - flat.size
        weight = (np.pad(flat, (0, filler)) if filler else flat).reshape(self.shape)
        try:
            encoded, difference = dispatch.encode(self.work.choice.format, weight, self.work.orders.of(name, weight))
        except WeightError as error:
            raise WeightError(f"tensor {name}: {error}") from None
        checks = check(weight, dispatch.decode(encoded))
        complaint, doubt = (None, None) if checks is None else (checks.complaint, checks.doubt)
        self.work.results.append(
            QuantizedTensor(name, encoded.format.name, difference.mse, difference.sqnr_db, complaint, doubt)
        )
        return replace(encoded, shape=self.tensor.shape)


def _by_channel(shape: tuple[int, ...]) -> tuple[int, int]:
    """A weight as a matrix of one row for each output channel."""
    return shape[0], int(np.prod(shape[1:]))


def _by_block(form: Format, size: int) -> list[tuple[int, int]]:
    """A weight as a matrix of one row for each block, where blocks may cross the weight's own rows."""
    if not isinstance(form, BlockTable) or form.permuted:
        return []
    return [(-(-size // form.block_size), form.block_size)]


def _patterns(patterns: str | Sequence[str]) -> Sequence[str]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _sizes(source: Mapping[str, Array] | str | Path | None) -> Mapping[str, Array]:
    """Sizes of activations by the name of the weight that they are multiplied with."""
    if source is None or isinstance(source, Mapping):
        return source or {}
    try:
        with np.load(source, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError) as error:
        raise FeedError(f"{source}: cannot be read as a .npz of arrays: {error}") from None
