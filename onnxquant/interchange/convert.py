"""One checkpoint as another: ``onnxquant convert`` and ``onnxquant.interchange.convert``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.errors import CheckpointError, OutputError, OutputExistsError, RecipeError
from onnxquant.interchange.container import SHARD_BYTES, Container, Output
from onnxquant.interchange.containers.safetensors import Safetensors, config_beside
from onnxquant.interchange.files import container_for, containers, open_checkpoint
from onnxquant.interchange.folders import is_empty_folder
from onnxquant.interchange.reading import in_turn
from onnxquant.interchange.same_codes import as_held
from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.recipe.progress import Progress, silent
from onnxquant.system.files import refuse_taken

# Tensors that an error names.
_NAMED = 3


@dataclass(frozen=True)
class LeftOut:
    """A tensor that the output does not have, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """A file of tensors that was written.

    Attributes:
        source: the checkpoint that it is of.
        output: the file or folder.
        container: name of its container.
        tensors: number of its tensors.
        encoded: number of those that hold codes of a format.
        nbytes: bytes of the output.
        left_out: tensors of the source that it does not have.
        notes: sentences about what a reader should know.
    """

    source: str
    output: str
    container: str
    tensors: int
    encoded: int
    nbytes: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


@checked
def convert(
    source: str | Path | Checkpoint,
    output: str | Path,
    *,
    to: str | None = None,
    leave_out: bool = False,
    force: bool = False,
    shard_bytes: int | None = None,
    progress: Progress = silent,
) -> Conversion:
    """Write the tensors of a checkpoint in another container; codes move as they are.

    Args:
        source: a GGUF or safetensors file, a folder of safetensors or ``.q8k`` files, an AXQT file.
        output: file or folder to write.
        to: name of the container; None: the end of the output's name says it.
        leave_out: leave tensors out that the container cannot hold, instead of refusing.
        force: replace an existing output.
        shard_bytes: bytes of the largest file of a folder of safetensors; None: 5 GB.
        progress: called with the part that is done.

    Raises:
        RecipeError: the output's name says no container, or ``shard_bytes`` has no effect.
        CheckpointError: the source is damaged, or holds tensors that the container cannot.
        OutputError: the output is there already, or cannot be written.

    >>> import onnxquant, tempfile
    >>> from onnxquant.interchange import convert, save
    >>> folder = tempfile.mkdtemp()
    >>> weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    >>> save(f"{folder}/a.gguf", {"w.weight": onnxquant.encode(weight, "q4_0")})
    >>> convert(f"{folder}/a.gguf", f"{folder}/a.safetensors").tensors
    1
    """
    output = Path(output)
    container = container_for(output, to)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    refuse_output(checkpoint, output, is_folder=container.is_folder(output), force=force)
    if shard_bytes is not None and (shard_bytes < 1 or not container.cuts(output)):
        raise RecipeError(f"{output}: a size of shards is a number above 0, for a folder of safetensors alone")
    held, left_out = _held(container, list(checkpoint.tensors.values()))
    if left_out and not leave_out:
        names = "; ".join(f"{entry.name}: {entry.reason}" for entry in left_out[:_NAMED])
        raise CheckpointError(
            f"{checkpoint.path}: {len(left_out)} of {len(checkpoint.tensors)} tensors do not fit into {container.name} "
            f"({names}); {_remedy(checkpoint, held)}"
        )
    if not held:
        raise CheckpointError(f"{checkpoint.path}: has no tensor that {container.name} holds")
    config = config_beside(checkpoint.path) if container.cuts(output) and _is_safetensors(checkpoint) else None
    place = Output(output, shard_bytes or SHARD_BYTES, config)
    container.write(place, in_turn(held, checkpoint.files, "writing tensors", progress), checkpoint.metadata)
    return Conversion(
        str(checkpoint.path), str(output), container.name, len(held), sum(tensor.is_encoded for tensor in held),
        size_of(output), tuple(left_out), checkpoint.notes,
    )  # fmt: skip


def _is_safetensors(checkpoint: Checkpoint) -> bool:
    return checkpoint.container == Safetensors.name


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _remedy(checkpoint: Checkpoint, held: Sequence[Tensor]) -> str:
    """The ways out for a checkpoint that a container does not hold whole."""
    whole = [
        name
        for name, container in containers().items()
        if all(container.why_not(as_held(container, tensor)) is None for tensor in checkpoint.tensors.values())
    ]
    ways = ["--leave-out (leave_out=True) writes the others"] * bool(held)
    ways += [f"{' and '.join(whole)} can hold all of them"] * bool(whole)
    return "; ".join(ways) or "no container holds all of them"


def refuse_output(checkpoint: Checkpoint, output: Path, *, is_folder: bool, force: bool) -> None:
    """Refuse an output that is there, or that would change the source.

    Raises:
        OutputError: it is refused.
    """
    if not is_folder:
        refuse_taken(output, force=force)
    elif not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} does not exist; make it first")
    elif (output.exists() or output.is_symlink()) and not (force or is_empty_folder(output)):
        raise OutputExistsError(f"{output}: exists already; pass --force (force=True) to replace it")
    place, source = output.resolve(), checkpoint.path.resolve()
    if place == source or place in source.parents:
        raise OutputError(f"{output}: is the source itself, or its folder; expected another output")
    if source in place.parents:
        raise OutputError(f"{output}: is in the folder of the source; expected another output")
    if output.exists() and any(output.samefile(file.path) for file in checkpoint.files if file.path.exists()):
        raise OutputError(f"{output}: is a part of the source; expected another output")


def _held(container: type[Container], tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[LeftOut]]:
    """Tensors in forms that a container holds, and those that it cannot."""
    held, left_out = [], []
    for tensor in tensors:
        form = as_held(container, tensor)
        reason = container.why_not(form)
        if reason is None:
            held.append(form)
        else:
            left_out.append(LeftOut(tensor.name, reason))
    return held, left_out
