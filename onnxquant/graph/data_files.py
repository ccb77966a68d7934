"""Names and sizes of data files: the files beside a model that hold its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import onnx

from onnxquant.errors import OutputError, RecipeError
from onnxquant.graph.external import reference
from onnxquant.graph.io import Document
from onnxquant.graph.traverse import tensors

# ONNX Runtime and some systems want page-aligned offsets for mapped tensors.
ALIGNMENT = 4096
# The ending of a data file's name behind the model's, where nothing says another.
USUAL = ".data"
# Endings of files that are no data files: models, reports and recipes.
TAKEN_ENDINGS = (".onnx", ".json", ".html", ".md", ".toml", ".yaml", ".yml")
# Locations that no file can have begin with it and end with a file's number: they mark tensors whose bytes a sink has taken,
# until the final names are known.
STORED = "\x00stored"
_NUMBER = re.compile(r"_[1-9]\d*$")


@dataclass(frozen=True)
class DataFiles:
    """Names of the data files that a model gets: NAME and, where a file may not be larger, NAME_1, NAME_2 ...

    Attributes:
        first: name of the first file.
        limit: size of the largest file in bytes; 0: no limit.
    """

    first: str
    limit: int = 0

    @classmethod
    def named(cls, output: Path, text: str, limit: int = 0) -> Self:
        """Data files of a name that the user gives; an ending alone goes behind the output's name.

        Args:
            output: the model.
            text: the name, or the ending.
            limit: size of the largest file in bytes; 0: no limit.

        Raises:
            RecipeError: no data file of this model can have the name.

        >>> DataFiles.named(Path("model.onnx"), "_data").first
        'model.onnx_data'
        """
        data = cls(output.name * is_ending(text) + text, limit)
        objection = objection_to_name(text)
        if not objection and data.has_name(output.name):
            objection = "the name of the model itself; expected another, or an ending such as _data"
        if objection:
            raise RecipeError(f"data_name is {text!r}, {objection}")
        return data

    def has_name(self, name: str) -> bool:
        """Whether one of the files has a name."""
        return self.first in (name, _NUMBER.sub("", name))

    def name(self, number: int) -> str:
        """Name of a file.

        >>> DataFiles("model.onnx_data").name(2)
        'model.onnx_data_2'
        """
        return f"{self.first}_{number}" if number else self.first

    def names_present(self, folder: Path) -> Iterator[Path]:
        """Files of a folder that have these names."""
        number = 0
        while (folder / self.name(number)).exists():
            yield folder / self.name(number)
            number += 1


class Place(NamedTuple):
    """The place of a tensor: the number of its data file, and where it starts there."""

    file: int
    offset: int


class Places:
    """Places of tensors in data files, one behind the other.

    Args:
        data: names and limit of the files; None: the tensors go into the model, and are not aligned.

    Attributes:
        ends: size of each file so far.
    """

    def __init__(self, data: DataFiles | None) -> None:
        self._data = data
        self.ends = [0]

    def take(self, name: str, nbytes: int) -> Place:
        """The place of the next tensor.

        Raises:
            OutputError: it is larger than a file may be.
        """
        limit = self._data.limit if self._data else 0
        start = self.ends[-1] + (-self.ends[-1] % ALIGNMENT if self._data else 0)
        if limit and nbytes > limit:
            raise OutputError(
                f"tensor {name!r} has {nbytes} bytes; a data file may have {limit}: choose a smaller format"
            )
        if limit and start + nbytes > limit:
            self.ends.append(0)
            start = 0
        self.ends[-1] = start + nbytes
        return Place(len(self.ends) - 1, start)


def name_like(model: Path, locations: Sequence[str], output: Path) -> str:
    """Name of an output's first data file, with the ending that the input's have behind the name of the model.

    >>> name_like(Path("a.onnx"), ["a.onnx_data", "a.onnx_data_1"], Path("b.onnx"))
    'b.onnx_data'
    >>> name_like(Path("a.onnx"), ["layer.0.weight", "layer.1.weight"], Path("b.onnx"))
    'b.onnx.data'
    """
    first = _first(locations)
    for own, new in ((model.name, output.name), (model.stem, output.stem)):
        ending = first.removeprefix(own)
        is_usable = is_ending(ending) and ".onnx" not in ending and not objection_to_name(ending)
        if own and ending != first and is_usable and not DataFiles(new + ending).has_name(output.name):
            return new + ending
    return output.name + USUAL


def is_named_after(model: Path, locations: Sequence[str]) -> bool:
    """Whether the names of data files follow the name of their model."""
    other = model.with_name("\x00.onnx")
    return name_like(model, locations, other) != other.name + USUAL or _first(locations) == model.name + USUAL


def _first(locations: Sequence[str]) -> str:
    """The name of which the others are numbered; empty where there is none."""
    firsts = {_NUMBER.sub("", name) for name in locations}
    if len(locations) == 1:
        return locations[0]
    return firsts.pop() if len(firsts) == 1 and firsts <= set(locations) else ""


def is_ending(text: str) -> bool:
    """Whether a text is an ending of names, which goes behind the name of a model, rather than a whole name."""
    return text.startswith((".", "_", "-"))


def objection_to_name(name: str) -> str:
    """The reason why a name, or an ending of names, is none of a data file; empty where it is one."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\x00"):
        return "expected the name of a file beside the model, or an ending such as _data"
    if name.lower().endswith(TAKEN_ENDINGS):
        return f"an ending of other files; expected none of {', '.join(TAKEN_ENDINGS)}"
    return ""


def default_data(path: Path) -> DataFiles:
    """The data file of a model that nothing else names."""
    return DataFiles(path.name + USUAL)


def named_like(source: Document, output: Path) -> DataFiles:
    """Data files of an output, named as those of its source are."""
    return DataFiles(name_like(source.path, source.locations(), output)) if source.path else default_data(output)


def locations_of(proto: onnx.ModelProto) -> list[str]:
    """Names of the files that tensors refer to, in the order of their numbers where they have some."""
    names = {reference(tensor).location for tensor in _external(proto)}
    return sorted(names, key=lambda name: (len(name), name))


def ends_of(proto: onnx.ModelProto) -> dict[str, int | None]:
    """Ends of the tensors in each file that they refer to; None where a tensor does not say its length."""
    ends: dict[str, int | None] = {}
    for tensor in _external(proto):
        location, offset, length = reference(tensor)
        end = ends.setdefault(location, 0)
        ends[location] = None if end is None or length is None else max(end, offset + length)
    return ends


def relocate(proto: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename the files that tensors refer to."""
    for tensor in _external(proto):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names.get(entry.value, entry.value)


def is_stored(tensor: onnx.TensorProto) -> bool:
    """Whether a sink has taken the tensor's bytes."""
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    return external and bool(tensor.external_data) and tensor.external_data[0].value.startswith(STORED)


def stored_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Tensors whose bytes a sink has taken."""
    return [tensor for tensor in _external(proto) if is_stored(tensor)]


def _external(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [t for t in tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
