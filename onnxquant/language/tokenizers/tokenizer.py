"""A tokenizer as every source describes it, and the facts that a runner needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxquant.language.special_tokens import SpecialTokens
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
    special: SpecialTokens
    strips_right: frozenset[int] = frozenset()
    chat_template: str | None = None


@dataclass(frozen=True)
class TokenizerFacts:
    """Facts that a runner must know of the tokenizer in a decoder folder.

    Attributes:
        vocabulary: number of its ids: one more than the largest.
        special: tokens that begin, end and fill texts.
        chat_template: template of a conversation; None: there is none.
        notes: sentences about what a reader should know.
    """

    vocabulary: int
    special: SpecialTokens
    chat_template: str | None = None
    notes: tuple[str, ...] = ()
