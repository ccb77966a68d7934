"""The values that all steps of one run share, and the folder in which they keep solved weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from onnxquant.calibration.samples import Samples
from onnxquant.errors import OutputError
from onnxquant.graph.io import Document
from onnxquant.pruning.records import PrunedModel
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.rules import Recipe

_Result = TypeVar("_Result")


class Shared:
    """Results of a step that later runs on the same model begin with: one of each class."""

    def __init__(self) -> None:
        self._results: dict[type[object], object] = {}

    def get(self, kind: type[_Result]) -> _Result | None:
        """The result of a class; None where no run has left one."""
        result = self._results.get(kind)
        return result if isinstance(result, kind) else None

    def put(self, result: object) -> None:
        """Leave a result for later runs."""
        self._results[type(result)] = result


@dataclass(frozen=True)
class Context:
    """The model of a run, the user's options and rules, and the samples and folder that its steps share.

    Attributes:
        original: the model as it was loaded
        document: the float model that the next step takes: prepared, and perhaps another one of the same function
        options: options of the run
        rules: rules that decide about weights
        samples: the user's samples; None where there are none
        folder: folder for solved weights
        progress: callback for the stage and the part of it that is done
        origin: JSON that tells what the output is made of
        shared: results of other runs on the same model and samples; None: this is the only run
        pruned: result of pruning the document; None where nothing was pruned
    """

    original: Document
    document: Document
    options: Options
    rules: Recipe
    samples: Samples | None
    folder: Path
    progress: Progress = silent
    origin: str = ""
    shared: Shared | None = None
    pruned: PrunedModel | None = None

    @property
    def has_zeros(self) -> bool:
        """Whether single weights were pruned, which are to stay zero."""
        return self.pruned is not None and bool(self.pruned.pruned.zeros)

    def with_document(self, document: Document) -> Self:
        """The context of the steps that go on with another float model."""
        return replace(self, document=document)

    def with_rules(self, rules: Recipe) -> Self:
        """The context of the steps that go on with other rules."""
        return replace(self, rules=rules)


@contextmanager
def workspace(options: Options) -> Iterator[Path]:
    """The folder for solved weights: the user's, which stays, or a temporary one.

    Raises:
        OutputError: it cannot be made.
    """
    if options.work is None:
        with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
            yield Path(name)
        return
    folder = Path(options.work)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from None
    yield folder
