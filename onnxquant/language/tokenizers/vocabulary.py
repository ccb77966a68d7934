"""The vocabulary of a tokenizer: its tokens by id, and what each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TypeVar

from onnxquant.errors import CheckpointError, shown

# Tokens of the largest vocabulary that is read, and characters of the longest token.
MOST_TOKENS, _LONGEST_TOKEN = 1 << 22, 1 << 16
_BYTES = 256
# Bytes that byte pair encoding writes as themselves; the others are written as characters from 256 on, in their order.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
# Bytes that no text in UTF-8 has.
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
T = TypeVar("T")


class TokenKind(IntEnum):
    """Kinds of tokens, by the numbers of SentencePiece, which GGUF shares."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Kinds that are cut out of a text before it is split, and of these the ones that are no part of what a model says.
CUT_OUT = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)
SPECIAL = (TokenKind.CONTROL, TokenKind.UNKNOWN)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id.

    Attributes:
        place: the file, for messages.
        texts: text of each token, each another.
        kinds: kind of each token.

    Raises:
        CheckpointError: there are none or too many, one has no text, or two have the same.
    """

    place: str
    texts: tuple[str, ...]
    kinds: tuple[TokenKind, ...]

    def __post_init__(self) -> None:
        """Check the tokens, which come from a file."""
        if not 0 < len(self.texts) <= MOST_TOKENS:
            raise CheckpointError(
                f"{self.place}: has a vocabulary of {len(self.texts)} tokens; expected 1 to {MOST_TOKENS}"
            )
        longest = max(self.texts, key=len)
        if len(longest) > _LONGEST_TOKEN:
            raise CheckpointError(
                f"{self.place}: a token has {len(longest)} characters; expected {_LONGEST_TOKEN} at most"
            )
        if len(self.ids) < len(self.texts):
            number = next(number for number, text in enumerate(self.texts) if self.ids[text] != number)
            raise CheckpointError(
                f"{self.place}: tokens {number} and {self.ids[self.texts[number]]} are both {shown(self.texts[number])}; "
                "expected a text for each id"
            )

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by text."""
        return {text: number for number, text in enumerate(self.texts)}

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.texts)

    @cached_property
    def has_bytes(self) -> bool:
        """Whether there is a token for every byte, which stands for what no other token has."""
        return all(byte_text(value) in self.ids for value in range(_BYTES))

    @property
    def missing_bytes(self) -> list[int]:
        """Bytes that texts may have and that have no token of their own, where words are taken as bytes."""
        others = [value for value in range(_BYTES) if value not in _PRINTABLE]
        signs = {value: chr(256 + number) for number, value in enumerate(others)}
        return [
            value for value in range(_BYTES) if value not in _NEVER and signs.get(value, chr(value)) not in self.ids
        ]

    def checked_id(self, value: object, what: str) -> int:
        """An id that a file says.

        Raises:
            CheckpointError: it is that of no token.
        """
        if type(value) is not int or not 0 <= value < self.size:
            raise CheckpointError(
                f"{self.place}: {what} is {shown(value)}; expected the id of a token, 0 to {self.size - 1}"
            )
        return value


def byte_text(value: int) -> str:
    """The text of the token of a byte.

    >>> byte_text(10)
    '<0x0A>'
    """
    return f"<0x{value:02X}>"


def of_length(place: str, what: str, values: Sequence[T], count: int) -> Sequence[T]:
    """Values of which there must be one for each token.

    Raises:
        CheckpointError: there are more or fewer.
    """
    if len(values) != count:
        raise CheckpointError(f"{place}: {what} has {len(values)} entries; expected {count}, one for each token")
    return values
