"""A tokenizer as every source describes it, and the facts that a runner needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxquant.language.tokenizers.merges import Merge
from onnxquant.language.tokenizers.patterns import Words
from onnxquant.language.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Pieces:
    """Pieces of SentencePiece: of the whole text, in which a sign stands for a space.

    Attributes:
        has_prefix: whether a space is put before a text.
    """

    has_prefix: bool


@dataclass(frozen=True)
class SpecialIds:
    """The tokens that begin, end and fill texts.

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


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of byte pair encoding.

    Attributes:
        vocabulary: its tokens.
        merges: pairs that become one, the first before the others.
        splitting: the way from a text to what the merges begin with: bytes of words, or characters of the whole text.
        special: tokens that begin, end and fill texts.
        strips_right: tokens that take the white space behind them.
        chat_template: template of a conversation; None: there is none.
    """

    vocabulary: Vocabulary
    merges: Sequence[Merge]
    splitting: Words | Pieces
    special: SpecialIds
    strips_right: frozenset[int] = frozenset()
    chat_template: str | None = None


@dataclass(frozen=True)
class TokenizerFacts:
    """Facts that a runner must know of the tokenizer in a decoder folder.

    Attributes:
        vocabulary: number of its ids: one more than the largest.
        bos: the token that begins a text; None: there is none.
        eos: tokens that end one; none where no file names any.
        pad: the token that fills rows of a batch; None: there is none.
        adds_bos: whether encoding a text adds the first of them.
        chat_template: template of a conversation; None: there is none.
        notes: sentences about what a reader should know.
    """

    vocabulary: int
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    adds_bos: bool = False
    chat_template: str | None = None
    notes: tuple[str, ...] = ()
