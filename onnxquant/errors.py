"""The errors a caller may meet; each message names what was wrong, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Sequence

# Characters of a value in a message.
_LONGEST = 80


class OnnxQuantError(Exception):
    """Base of every error this package raises on purpose; the command line turns it into exit code 2."""


class ModelError(OnnxQuantError):
    """The input model cannot be read, is damaged, or uses something that cannot be supported."""


class ExternalDataError(ModelError):
    """A tensor's external data reference is missing, escapes its folder or does not fit the tensor."""


class CheckpointError(OnnxQuantError):
    """A file of tensors cannot be read, is damaged, or holds something that cannot be moved to where it was asked for."""


class RecipeError(OnnxQuantError):
    """An option, a format's parameter or a recipe key is unknown or contradicts another."""


class WeightError(OnnxQuantError):
    """A weight holds values that its format cannot represent (NaN, Inf, out of the scale's range)."""


class RangeError(WeightError):
    """A weight is finite but beyond what the format's scale can express; it is kept in float."""


class OutputError(OnnxQuantError):
    """The output cannot be written where it was asked for; nothing was left behind."""


class OutputExistsError(OutputError):
    """The output exists already, perhaps written by another run meanwhile, and replacing it was not asked for."""


class FeedError(OnnxQuantError):
    """The data given for a model does not fit its inputs.

    Args:
        message: the error in one line
        table: inputs of the model beside what the data holds, in lines for a terminal
    """

    def __init__(self, message: str, table: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.table = tuple(table)


class StatisticsError(OnnxQuantError):
    """Calibration statistics cannot be collected, read, merged, or used for this model."""


class ReportError(OnnxQuantError):
    """A saved report is missing, damaged, something else, or of another version."""


class NativeLibraryError(OnnxQuantError):
    """The compiled library is missing, too old, or refused a call."""


def shown(value: object) -> str:
    """A value as messages show it: in one line, and not much longer than that.

    >>> shown([1, 2])
    '[1, 2]'
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def nearest(word: object, known: list[str]) -> str:
    """A suffix that names the nearest known word, or lists them all when none is near.

    >>> nearest("int5", ["int4", "q8_0"])
    "; did you mean 'int4'?"
    """
    near = likeliest(word, known)
    return f"; known: {', '.join(known)}" if near is None else f"; did you mean {near!r}?"


def likeliest(word: object, known: list[str]) -> str | None:
    """The known word that another one is probably meant for; None where none is near.

    >>> likeliest("int5", ["int4", "q8_0"])
    'int4'
    """
    import difflib

    return next(iter(difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)), None)
