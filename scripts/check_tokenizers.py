"""Compares the tokenizers that are written for decoder folders with llama.cpp's, token by token.

The tokenizer of each GGUF file is written as tokenizer.json, and read by the package tokenizers. Its ids must be those of
llama.cpp (llama-cpp-python, ``vocab_only``) for every line: once with special tokens read in the text and once with none,
and decoding the ids must give the line back where llama.cpp gives it back. The lines are of several scripts, code, emoji,
runs of white space, digits, control characters and special tokens: made from Unicode's blocks, this repository and Python's
own sources. With ``--genai FOLDER``, a decoder folder of any model, the ids of onnxruntime-genai are compared, too, in a
copy of that folder that has the tokenizer in place of its own.

    python scripts/check_tokenizers.py ggml-vocab-*.gguf SmolLM2.gguf

prints a table of the lines that differ, and the first of them with ``--show``. Vocabularies without weights are in
llama.cpp's repository, ``models/ggml-vocab-*.gguf``.

Known differences: llama.cpp takes ``</s>`` for a control token in every vocabulary that has it, such as qwen2's, where it is
text; lines with it are left out for those. A byte that has no token, such as 0x06 in SmolLM2's vocabulary, is lost in both,
but llama.cpp merges nothing across it (4 lines of SmolLM2). The tokens of phi-3 that take the white space behind them take
that of Unicode here, and of ASCII in llama.cpp (3 lines). For ``gpt-4o`` and ``tekken`` llama.cpp's pattern is simpler than
the models' own, which is written here: it cuts words at combining marks, and knows case in ASCII alone. onnxruntime-genai
does not take U+0085 for white space, gives -1 for bytes that have no token, and merges at most a hundred characters of
pieces at a time (about one line in a thousand; 1 in 18 of SmolLM2, for its control characters).
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import sysconfig
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from onnxquant.errors import CheckpointError
from onnxquant.interchange import open_checkpoint
from onnxquant.language.tokenizers import write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("onnxquant/**/*.py", "docs/*.md", "custom_ops/**/*.h")
# Blocks of letters: Latin with marks, Greek, Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Bengali, Tamil, Thai, Tibetan,
# Georgian, Hangul, Ethiopic, Cherokee, Khmer, Kana, CJK, Hangul syllables, mathematical letters.
BLOCKS = [
    (0x41, 0x5B), (0x61, 0x7B), (0xC0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x531, 0x590), (0x591, 0x5F5), (0x600, 0x700),
    (0x900, 0x980), (0x980, 0xA00), (0xB80, 0xC00), (0xE00, 0xE80), (0xF00, 0xFD0), (0x10A0, 0x1100), (0x1100, 0x1200),
    (0x1200, 0x1380), (0x13A0, 0x1400), (0x1780, 0x1800), (0x1E00, 0x1F00), (0x3040, 0x3100), (0x4E00, 0x9FA6),
    (0xAC00, 0xD7A4), (0x1D400, 0x1D800),
]  # fmt: skip
EMOJI = ["😀", "🎉", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "☃", "🤷🏾‍♀️", "1️⃣", "™️"]  # fmt: skip
SPACES = [
    " ", "  ", "   ", "    ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u200b", "\u2028", "\u0085",
    "\v", "\f",
]  # fmt: skip
DIGITS = ["0", "7", "12", "123", "2024", "1234567", "3.14159", "1,000,000", "٣٤٥", "१२३", "½", "Ⅷ", "²", "①", "一二三"]
WORDS = ["It's", "we'll", "I'M", "DON'T", "they'Re", "'s", "''", "camelCase", "HTTPServer", "naïve", "e\u0301", "_x_"]
CONTROLS = [chr(code) for code in (*range(1, 9), *range(14, 32), *range(127, 133), 0xAD, 0xFEFF, 0xFFFD, 0x202E)]
SIGNS = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "…", "—", "“", "”", "。", "、", "€", "→", "///", "...", "?!", "->", "▁"]
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|user|>", "<0x0A>"]
# The token that llama.cpp takes for a control token wherever it is, and the kind of those.
END, CONTROL = "</s>", 3


def lines(count: int, seed: int) -> list[str]:
    """So many lines: half of them of files, and half made of parts of many kinds."""
    chance = random.Random(seed)
    sources = list(islice(_of_files(chance), count // 2))
    return sources + [_mixed(chance) for _ in range(count - len(sources))]


def _of_files(chance: random.Random) -> Iterator[str]:
    """Lines of this repository and of Python's own sources, some of them several at once."""
    standard = Path(sysconfig.get_path("stdlib"))
    ours = (file for pattern in PATTERNS for file in ROOT.glob(pattern))
    files = sorted([*ours, *standard.glob("*.py")])
    while True:
        file = chance.choice(files).read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True)
        if file:
            first = chance.randrange(len(file))
            yield "".join(file[first : first + chance.choice([1, 1, 1, 2, 5])])


def _mixed(chance: random.Random) -> str:
    """A line of parts of several kinds."""
    kinds: Sequence[Callable[[random.Random], str]] = [
        _letters, _letters, _letters, _any_character,
        *(_one_of(parts) for parts in (EMOJI, SPACES, SPACES, DIGITS, WORDS, CONTROLS, SIGNS)),
    ]  # fmt: skip
    if chance.random() < 0.1:
        kinds = [*kinds, _one_of(SPECIAL)]
    parts = [chance.choice(kinds)(chance) for _ in range(chance.randrange(1, 16))]
    return chance.choice(["", " "]).join(parts)


def _one_of(parts: list[str]) -> Callable[[random.Random], str]:
    return lambda chance: chance.choice(parts)


def _letters(chance: random.Random) -> str:
    """A word of one block."""
    first, end = chance.choice(BLOCKS)
    word = (chr(chance.randrange(first, end)) for _ in range(chance.randrange(1, 9)))
    return "".join(sign for sign in word if unicodedata.category(sign) != "Cn")


def _any_character(chance: random.Random) -> str:
    """Any character of Unicode that is one."""
    while unicodedata.category(sign := chr(chance.randrange(0xA0, 0x20000))) in ("Cs", "Cn", "Co"):
        pass
    return sign


@dataclass
class Count:
    """Lines that differ.

    Attributes:
        what: name of the things that are compared.
        lines: number of those that differ.
        of: number of lines.
        first: the first of them, for people.
    """

    what: str
    lines: int = 0
    of: int = 0
    first: str = ""

    def note(self, line: str, ours: Sequence[int] | str, expected: Sequence[int] | str) -> None:
        """Count a line, and whether it differs."""
        self.of += 1
        if ours != expected:
            self.lines += 1
            self.first = self.first or f"{line!r}\n    here     {ours!r}\n    expected {expected!r}"


def main() -> int:
    """Print a line for each file; 1 where ids differ from llama.cpp's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="GGUF files; weights are not needed")
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--genai", type=Path, help="decoder folder that onnxruntime-genai opens, of any model")
    parser.add_argument("--no-llama", action="store_true", help="leave llama.cpp out")
    parser.add_argument("--show", action="store_true", help="the first line that differs")
    options = parser.parse_args()
    texts, fails = lines(options.lines, options.seed), False
    for file in options.files:
        with tempfile.TemporaryDirectory() as folder:
            try:
                facts = write_tokenizer(open_checkpoint(file), Path(folder))
            except CheckpointError as error:
                print(f"{file.name}: refused: {error}", flush=True)
                continue
            counts = []
            if not options.no_llama:
                counts += against_llama(file, Path(folder), texts)
                fails |= any(count.lines for count in counts)
            if options.genai:
                counts += against_genai(options.genai, Path(folder), texts)
        table = ", ".join(f"{count.what} {count.lines} of {count.of}" for count in counts)
        print(f"{file.name}: {facts.vocabulary} tokens; lines that differ: {table}", flush=True)
        for count in counts if options.show else []:
            if count.first:
                print(f"  {count.what}: {count.first}", flush=True)
    return int(fails)


def against_llama(file: Path, folder: Path, texts: Sequence[str]) -> list[Count]:
    """Ids of the package tokenizers beside those of llama.cpp, and what becomes of a text that is encoded and decoded."""
    import llama_cpp
    import tokenizers

    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    read, plain, decoded = Count("ids with special tokens"), Count("ids without"), Count("texts decoded")
    for text in _without_plain_end(file, texts):
        ours.encode_special_tokens = False
        ids = ours.encode(text, add_special_tokens=False).ids
        read.note(text, ids, theirs.tokenize(text.encode(), add_bos=False, special=True))
        ours.encode_special_tokens = True
        ids = ours.encode(text, add_special_tokens=False).ids
        plain.note(text, ids, theirs.tokenize(text.encode(), add_bos=False, special=False))
        text_back = theirs.detokenize(ids, special=True).decode(errors="replace")
        if text in (text_back, text_back.removeprefix(" ")):
            decoded.note(text, ours.decode(ids, skip_special_tokens=False), text)
    return [read, plain, decoded]


def _without_plain_end(file: Path, texts: Sequence[str]) -> list[str]:
    """The lines without ``</s>`` where that is text in a vocabulary."""
    metadata = open_checkpoint(file).metadata
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(kinds, list)
    is_text = END in tokens and kinds[tokens.index(END)] != CONTROL
    return [text for text in texts if not (is_text and END in text)]


def against_genai(decoder: Path, folder: Path, texts: Sequence[str]) -> list[Count]:
    """Ids of the package tokenizers beside those of onnxruntime-genai, both with special tokens read and none added."""
    import onnxruntime_genai
    import tokenizers

    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    count = Count("ids of onnxruntime-genai")
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(decoder, copy, dirs_exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(folder / name, copy)
        try:
            theirs = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(copy))
        except RuntimeError as error:
            count.lines, count.of, count.first = len(texts), len(texts), str(error)
            return [count]
        for text in texts:
            count.note(text, ours.encode(text, add_special_tokens=False).ids, [int(i) for i in theirs.encode(text)])
    return [count]


if __name__ == "__main__":
    sys.exit(main())
