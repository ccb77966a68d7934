"""The codes of a checkpoint put into a float graph: ``onnxquant transplant``.

Each weight of the graph is looked for in the checkpoint by its name and shape, then by its values: decoded rows of the
checkpoint are like those of the graph. Rows may stand in another order (rotary models), weights may be joined or split. The
codes and scales of the rows move as they are; nothing is rounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxquant.arguments import checked
from onnxquant.errors import CheckpointError, RecipeError
from onnxquant.formats.base import Encoded
from onnxquant.graph.sites import Site
from onnxquant.inspect.model import Model
from onnxquant.interchange.convert import refuse_output
from onnxquant.interchange.files import open_checkpoint
from onnxquant.interchange.joined_rows import by_rows, independent, joined
from onnxquant.interchange.row_match import LOST, Nearest, RowIndex, Rows, decibels_of, lost_between, values_of
from onnxquant.interchange.tensor import Checkpoint, Tensor
from onnxquant.numerics.arrays import Array
from onnxquant.recipe.declaration import options_of
from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.rules import RuleOptions
from onnxquant.recipe.values import Compute
from onnxquant.targets import AUTO

# Parts of names that say nothing about which weight it is.
_EMPTY_WORDS = re.compile(r"^(model|transformer|weight|module|onnx|base_model|encoder|decoder|bert|roberta)$")


@dataclass(frozen=True)
class Transplanted:
    """A weight of the graph that has the checkpoint's codes.

    Attributes:
        name: name in the graph.
        sources: names in the checkpoint.
        format: name of its format.
        how: "name" or "values", by which it was found.
        is_reordered: whether its rows stand in another order than in the checkpoint, or are parts of several weights.
        sqnr_db: decoded codes against the graph's float weight, in decibels.
    """

    name: str
    sources: tuple[str, ...]
    format: str
    how: str
    is_reordered: bool
    sqnr_db: float


@dataclass(frozen=True)
class Unmatched:
    """A weight of the graph that stays in float.

    Attributes:
        name: name in the graph.
        reason: the reason, with the most similar weight of the checkpoint.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class TransplantReport:
    """A graph with the codes of a checkpoint.

    Attributes:
        model: path of the float graph.
        checkpoint: path of the checkpoint.
        output: path of the file that was written.
        weights: weights that have codes now.
        unmatched: weights that stay in float.
        unused: weights of the checkpoint that no weight of the graph is like.
    """

    model: str
    checkpoint: str
    output: str
    weights: tuple[Transplanted, ...]
    unmatched: tuple[Unmatched, ...]
    unused: tuple[str, ...]


@checked
def transplant(
    model: str | Path,
    checkpoint: str | Path,
    output: str | Path,
    *,
    target: str = AUTO,
    compute: str = Compute.AUTO,
    force: bool = False,
    progress: Progress = silent,
) -> TransplantReport:
    """Write a float ONNX graph with the codes of a checkpoint in the place of its weights.

    Args:
        model: the float graph.
        checkpoint: a file of tensors with codes, of the same model.
        output: file to write.
        target: name of a target, or ``auto``.
        compute: "auto", or "float": weights are decoded when the file is loaded, so that products lose nothing more.
        force: replace an existing output.
        progress: called with the part that is done.

    Raises:
        CheckpointError: the checkpoint has no codes, or none of its weights is in the graph.
        RecipeError: there is no such target or arithmetic.
        OutputError: the output is there already, or cannot be written.
    """
    for option, value in (("target", target), ("compute", compute)):
        options_of(RuleOptions)[option].check(value)
    graph, source = Model(model), open_checkpoint(checkpoint)
    refuse_output(source, Path(output), is_folder=False, force=force)
    search = _Search(source)
    weights: list[Transplanted] = []
    unmatched: list[Unmatched] = []
    for number, site in enumerate(graph.sites):
        progress("matching weights", number / len(graph.sites))
        weight = graph.weight(site.name)
        match = search.match(site, weight)
        if isinstance(match, str):
            unmatched.append(Unmatched(site.name, match))
            continue
        try:
            graph.set(site.name, match.encoded(), target, compute=compute)
            graph.check(site.name)
        except (RecipeError, CheckpointError) as error:
            graph.unset(site.name)
            unmatched.append(Unmatched(site.name, str(error)))
            continue
        search.used.update(tensor.name for tensor in match.rows.sources)
        weights.append(match.result(site.name))
    if not weights:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in unmatched[:3])
        raise CheckpointError(f"{checkpoint}: no weight of {model} was found in it ({reasons or 'the graph has none'})")
    progress("writing the graph", 0.0)
    graph.save(output, force=force)
    unused = tuple(tensor.name for tensor in search.tensors if tensor.name not in search.used)
    return TransplantReport(str(model), str(checkpoint), str(output), tuple(weights), tuple(unmatched), unused)


@dataclass(frozen=True)
class _Match:
    """The rows of the checkpoint that a weight of the graph is."""

    rows: Rows
    how: str

    def encoded(self) -> Encoded:
        """The weight of these rows.

        Raises:
            CheckpointError: they are of several formats, or of one whose rows depend on each other.
        """
        parts = [tensor.encoded() for tensor in self.rows.sources]
        if self.rows.rows is None:
            return parts[0]
        return joined([independent(part) for part in parts], self.rows.rows)

    def result(self, name: str) -> Transplanted:
        """The report of a weight."""
        sources = tuple(tensor.name for tensor in self.rows.sources)
        is_reordered = self.rows.rows is not None
        label, level = self.rows.sources[0].label, decibels_of(self.rows.lost)
        return Transplanted(name, sources, label, self.how, is_reordered, level)


@dataclass
class _Search:
    """The weights of a checkpoint, and where each weight of a graph is among them.

    Attributes:
        checkpoint: the checkpoint.
        tensors: its weights that have codes.
        used: names of those that were found in the graph.
    """

    checkpoint: Checkpoint
    tensors: list[Tensor] = field(init=False)
    used: set[str] = field(default_factory=set)
    _indices: dict[int, RowIndex] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Collect the weights.

        Raises:
            CheckpointError: there are none.
        """
        coded = [tensor for tensor in self.checkpoint.tensors.values() if tensor.is_encoded]
        self.tensors = [by_rows(tensor) for tensor in coded]
        if not coded:
            raise CheckpointError(f"{self.checkpoint.path}: has plain numbers alone, and no codes to move")

    def match(self, site: Site, weight: Array) -> _Match | str:
        """The rows of a weight, or the reason why there are none."""
        if not np.isfinite(weight).all():
            return "it holds NaN or infinity"
        if not weight.any():
            return "it holds zeros alone"
        if named := self._by_name(site, weight):
            return named
        same = [tensor for tensor in self.tensors if tensor.matrix_shape[1] == site.cols]
        if not same:
            return f"no weight of the checkpoint has {site.cols} columns"
        if site.cols not in self._indices:
            self._indices[site.cols] = RowIndex(same, site.cols)
        rows = self._indices[site.cols].find(weight)
        if isinstance(rows, Nearest):
            level = f"{decibels_of(rows.lost):.1f} dB"
            return f"no rows of the checkpoint are like it; the nearest weight is {rows.name}, at {level}"
        (*_, last) = rows.sources
        in_order = np.array_equal(np.asarray(rows.rows), np.arange(last.matrix_shape[0]))
        is_whole = len(rows.sources) == 1 and in_order
        return _Match(replace(rows, rows=None) if is_whole else rows, "values")

    def _by_name(self, site: Site, weight: Array) -> _Match | None:
        """The weight that has the name of the graph's, and its values."""
        words = _words(site.name)
        for tensor in self.tensors:
            if tensor.matrix_shape == (site.rows, site.cols) and words and _words(tensor.name) == words:
                lost = lost_between(weight, values_of(tensor))
                if lost <= LOST:
                    return _Match(Rows((tensor,), None, lost), "name")
        return None


def _words(name: str) -> tuple[str, ...]:
    """The parts of a name that tell which weight it is."""
    parts = re.split(r"[./_:]+", name.lower())
    return tuple(part for part in parts if part and not _EMPTY_WORDS.match(part))
