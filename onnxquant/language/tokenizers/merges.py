"""Merges of byte pair encoding: as a file lists them, and as the scores of SentencePiece imply them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from onnxquant.errors import CheckpointError, shown
from onnxquant.language.folder_names import TOKENIZER
from onnxquant.language.tokenizers.vocabulary import TokenKind, Vocabulary

# A text of so many characters has as many places to cut it, and no vocabulary has longer pieces.
_LONGEST_PIECE = 1 << 10
# Characters that all merges of a vocabulary may have for each character of its pieces, and beside these; the merges of
# vocabularies of SentencePiece have two or three.
_MOST_PER_CHARACTER, _MOST_BESIDE = 1 << 6, 1 << 22


class Merge(NamedTuple):
    """Two tokens that stand side by side and become the token of both texts; of several, the first that is listed."""

    left: str
    right: str


def listed_merges(vocabulary: Vocabulary, lines: Sequence[object]) -> list[Merge]:
    """The merges of a list of lines, each two texts with a space between them.

    A merge that is there twice counts where it is first.

    Raises:
        CheckpointError: a line is none, or one of the three tokens is not in the vocabulary.
    """
    merges: dict[Merge, None] = {}
    for number, line in enumerate(lines):
        left, space, right = line.partition(" ") if isinstance(line, str) else ("", "", "")
        if not (left and space and right):
            raise CheckpointError(
                f"{vocabulary.place}: merge {number} is {shown(line)}; expected two tokens with a space between them"
            )
        for text in (left, right, left + right):
            if text not in vocabulary.ids:
                raise CheckpointError(
                    f"{vocabulary.place}: merge {number}, {shown(line)}, needs the token {shown(text)}, "
                    "which the vocabulary does not have"
                )
        merges[Merge(left, right)] = None
    return list(merges)


def scored_merges(vocabulary: Vocabulary, scores: Sequence[float]) -> list[Merge]:
    """The merges that scores imply: two pieces become one where the vocabulary has it, the one of the highest score first.

    Pieces of equal scores come by their ids, and the ways to cut one piece by the length of the left part.

    Args:
        vocabulary: the pieces.
        scores: score of each.

    Raises:
        CheckpointError: a score is not a number, a piece is too long, or too many are long.
    """
    for number, score in enumerate(scores):
        if not isfinite(score):
            raise CheckpointError(f"{vocabulary.place}: token {number} has the score {score}; expected a finite number")
    mergeable = {
        text: score
        for text, score, kind in zip(vocabulary.texts, scores, vocabulary.kinds, strict=True)
        if kind in (TokenKind.NORMAL, TokenKind.UNUSED)
    }
    _refuse_costly(vocabulary.place, mergeable)
    merges: list[Merge] = []
    for piece in sorted(mergeable, key=lambda text: -mergeable[text]):  # sorted keeps the order of ids among equals
        merges.extend(_cuts(piece, mergeable))
    return merges


def _refuse_costly(place: str, pieces: Iterable[str]) -> None:
    """Refuse pieces whose merges might be much larger than they are: each may be cut at every character.

    Raises:
        CheckpointError: a piece is too long, or too many are long.
    """
    characters = cuts = 0
    for piece in pieces:
        if len(piece) > _LONGEST_PIECE:
            raise CheckpointError(
                f"{place}: piece {shown(piece)} has {len(piece)} characters; expected {_LONGEST_PIECE} at most"
            )
        characters += len(piece)
        cuts += len(piece) * (len(piece) - 1)
    most = _MOST_PER_CHARACTER * characters + _MOST_BESIDE
    if cuts > most:
        raise CheckpointError(
            f"{place}: merges of its pieces may have {cuts} characters; expected {most} at most for pieces of {characters}: "
            f"give a folder with the model's {TOKENIZER}, which lists its merges"
        )


def _cuts(piece: str, mergeable: dict[str, float]) -> Iterator[Merge]:
    """The ways to cut a piece into two others."""
    for place in range(1, len(piece)):
        left, right = piece[:place], piece[place:]
        if left in mergeable and right in mergeable:
            yield Merge(left, right)
