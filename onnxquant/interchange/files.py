"""The containers, and the choice among them: by the content of a file, or by the name of an output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onnxquant.arguments import checked
from onnxquant.errors import CheckpointError, RecipeError, nearest
from onnxquant.interchange import containers as package
from onnxquant.interchange.container import Container
from onnxquant.interchange.tensor import Checkpoint
from onnxquant.registry import classes, summary

# Files of a folder that a message names.
_NAMED = 4


@cache
def containers() -> dict[str, type[Container]]:
    """Containers by name."""
    return classes(package, Container, "onnxquant.containers")


@dataclass(frozen=True)
class ContainerInfo:
    """A kind of file that holds tensors without a graph.

    Attributes:
        summary: description in one line.
        endings: ends of the names of its files.
    """

    summary: str
    endings: tuple[str, ...]


def descriptions() -> dict[str, ContainerInfo]:
    """Descriptions of the containers by name."""
    return {name: ContainerInfo(summary(container), container.suffixes) for name, container in containers().items()}


@checked
def open_checkpoint(path: str | Path) -> Checkpoint:
    """The tensors of a GGUF or safetensors file, of a folder of ``.q8k`` files, or of an AXQT file.

    Args:
        path: the file; or a folder with one index of safetensors, one ``model.safetensors``, or ``.q8k`` files.

    Raises:
        CheckpointError: it is none of these, or it is damaged.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such file")
        for container in containers().values():
            if container.recognises(path):
                return container.open(path)
    except OSError as error:  # a name longer than names can be, a folder that may not be listed
        raise CheckpointError(f"{str(path)[:200]}: cannot be read: {error.strerror or error}") from None
    if path.is_dir():
        names = ", ".join(sorted(file.name for file in path.iterdir())[:_NAMED]) or "nothing"
        raise CheckpointError(
            f"{path}: has no *.safetensors or .q8k files; found {names}; a GGUF checkpoint is named by its file"
        )
    raise CheckpointError(f"{path}: is no file of tensors; expected one of {', '.join(containers())}")


def is_checkpoint(path: Path) -> bool:
    """Whether a path holds tensors without a graph."""
    try:
        return path.exists() and any(container.recognises(path) for container in containers().values())
    except OSError:  # a name longer than names can be, a folder that may not be listed
        return False


def endings() -> str:
    """Ends of the names of all containers' files, for people."""
    return ", ".join(suffix for container in containers().values() for suffix in container.suffixes)


def has_ending(output: Path) -> bool:
    """Whether the end of an output's name says a container."""
    return any(output.name.lower().endswith(container.suffixes) for container in containers().values())


def container_for(output: Path, name: str | None = None) -> type[Container]:
    """The container of an output.

    Args:
        output: file or folder to write.
        name: name of the container; None: the end of the output's name says it.

    Raises:
        RecipeError: there is no such container, or the name of the output says none.
    """
    known = containers()
    if name is not None:
        if name not in known:
            raise RecipeError(f"unknown container {name!r}{nearest(name, list(known))}")
        return known[name]
    for container in known.values():
        if output.name.lower().endswith(container.suffixes):
            return container
    raise RecipeError(
        f"{output}: its name says no container; expected one that ends in {endings()}, or --to (--to safetensors: a folder)"
    )
