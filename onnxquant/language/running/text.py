"""Texts to tokens and back, through the package ``tokenizers``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from onnxquant.errors import FeedError, ModelError, shown
from onnxquant.language.folder_names import TOKENIZER

_ROWS, _COLUMN = ".jsonl", "text"
_TEXTS = (".txt", ".md", _ROWS)
_BETWEEN = "\n\n"
# The character that stands for bytes which are no character, or not yet.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


def read_text(path: Path) -> str:
    """The text of a file, of the rows of a ``.jsonl`` file, or of all such files of a folder.

    Rows and files follow each other with an empty line between them, files in the order of their names. The line break at
    the end of a file is no part of it.

    Raises:
        FeedError: it cannot be read, or there is no text.
    """
    if not path.is_dir():
        return _text_of_rows(path) if path.suffix.lower() == _ROWS else _plain_text(path)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _TEXTS and file.is_file())
    if not files:
        raise FeedError(f"{path}: holds no texts; expected files that end in {', '.join(_TEXTS)}")
    return _BETWEEN.join(read_text(file) for file in files)


def _text_of_rows(path: Path) -> str:
    """The texts of the rows of a file."""
    texts = []
    for number, line in enumerate(_plain_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FeedError(f"{path}, line {number}: is no JSON: {error}") from None
        text = row.get(_COLUMN) if isinstance(row, dict) else row
        if not isinstance(text, str):
            entry = f"an object of {shown(list(row))}" if isinstance(row, dict) else shown(row)
            raise FeedError(f"{path}, line {number}: is {entry}, expected an object with a text named {_COLUMN!r}")
        texts.append(text)
    return _BETWEEN.join(texts)


def _plain_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except OSError as error:
        raise FeedError(f"{path}: cannot be read as text: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FeedError(f"{path}: cannot be read as text: not UTF-8 ({error.reason})") from None


class TextTokenizer:
    """The tokenizer of a decoder folder.

    Args:
        folder: a folder with a ``tokenizer.json``.

    Raises:
        ModelError: there is none, or it is damaged.
        FeedError: the package is not installed.

    Attributes:
        prefix: tokens that it puts before a text by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / TOKENIZER
        if not self.path.is_file():
            raise ModelError(f"{self.path}: is missing; texts need the tokenizer of the model")
        if importlib.util.find_spec("tokenizers") is None:
            raise FeedError(f"{self.path}: needs the package tokenizers: pip install 'onnxquant[text]'")
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as error:  # the package raises Exception itself
            raise ModelError(f"{self.path}: tokenizers cannot read it: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        plain, special = self.encode("a", special=False), self.encode("a")
        self.prefix = special[: special.index(plain[0])] if plain and plain[0] in special else []

    def tokens(self) -> dict[str, int]:
        """Ids of all tokens, those that were added included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of a text.

        Args:
            text: the text.
            special: the tokenizer adds the tokens that begin and end a text.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without those that are no text."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


class TextStream:
    """The text of tokens that come one by one: a character that several tokens make up comes with the last of them."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Tokens before the first place are of no more use; those before the second are shown. Tokens are decoded together
        # with those before them, because the blank that begins a word depends on them.
        self._begin = self._shown = 0

    def add(self, token: int) -> str:
        """The text that a token completes; empty where it completes none."""
        self._tokens.append(token)
        text, before = self._texts()
        if len(text) <= len(before) or text.endswith(_INCOMPLETE):
            return ""
        self._begin, self._shown = self._shown, len(self._tokens)
        return text[len(before) :]

    def end(self) -> str:
        """The rest: bytes that never became a character."""
        text, before = self._texts()
        self._begin = self._shown = len(self._tokens)
        return text[len(before) :]

    def _texts(self) -> tuple[str, str]:
        """The text from the first place on, and the part of it that is shown."""
        decode = self._tokenizer.decode
        return decode(self._tokens[self._begin :]), decode(self._tokens[self._begin : self._shown])
