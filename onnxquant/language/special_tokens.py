"""The tokens that begin, end and fill texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that begin, end and fill texts, by their ids.

    Attributes:
        bos: the token that begins a text; None: there is none.
        eos: tokens that end one, first the one that a file names.
        pad: the token that fills rows of a batch; None: there is none.
        unknown: the token of what no other has; None: there is none.
        adds_bos: whether encoding a text adds the first of them.
        adds_eos: whether encoding a text adds the token that ends it.
    """

    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    unknown: int | None = None
    adds_bos: bool = False
    adds_eos: bool = False
