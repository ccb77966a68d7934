"""Passes and their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import ClassVar

from onnxquant.graph.io import Document


@dataclass(frozen=True)
class PassResult:
    """The result of one pass.

    Attributes:
        changed: whether the model is another one now.
        notes: sentences for a report: what was changed, and why other places were not.
        refusals: number of places that the pass left as they are, by reason.
    """

    changed: bool = False
    notes: tuple[str, ...] = ()
    refusals: Mapping[str, int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Pass(ABC):
    """A step from graph to graph. Its fields are its settings.

    It edits the graph of a document in place, and keeps the float outputs but for rounding.

    >>> FoldPads()(document).notes
    ('2 Pad nodes folded into the ops that read them',)
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def __call__(self, document: Document) -> PassResult:
        """Edit the graph of a prepared document.

        Raises:
            RecipeError: a setting is out of its bounds.
            FeedError: measured values do not fit the model.
        """

    @classmethod
    def needs_settings(cls) -> bool:
        """Whether the pass cannot be run by its name alone: a setting has no default."""
        return any(f.default is MISSING and f.default_factory is MISSING for f in fields(cls))


def refusals_in_words(refusals: Mapping[str, int], what: str = "") -> str:
    """The second half of a pass's note: the number of places that stay as they are, with the reasons.

    Args:
        refusals: number of places by reason.
        what: noun for the places, where the first half does not say it.
    """
    noun = f" {what}" if what else ""
    return "".join(f"; {count}{noun} left: {reason}" for reason, count in refusals.items())
