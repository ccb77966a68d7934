"""Samples from a text file, one per line: strings for a model that takes them, else tokens of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.feeds.base import Input, Raw, SampleOrigin, expected
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.settings import described
from onnxquant.calibration.feeds.tokenizers import Tokenizer, open_tokenizer
from onnxquant.errors import FeedError

ENDINGS = (".txt",)
_MAX_LENGTH = 512


@dataclass(frozen=True)
class TextSteps:
    """The steps from a line to an input.

    Attributes:
        tokenizer: ``tokenizer.json``, or an ONNX model that takes a string and returns token ids (as
            onnxruntime-extensions makes them); None: ``tokenizer.onnx`` or ``tokenizer.json`` in the folder of the text.
        max_length: largest number of tokens of a line; further ones are cut off.
    """

    tokenizer: str | None = None
    max_length: int = _MAX_LENGTH

    def __post_init__(self) -> None:
        """Check the values that are wrong for any model.

        Raises:
            FeedError: a value of the wrong type or out of range.
        """
        if type(self.max_length) is not int or self.max_length < 1:
            raise FeedError(f"preprocess: max_length is {self.max_length!r}, expected a number of tokens")
        if self.tokenizer is not None and not isinstance(self.tokenizer, (str, Path)):
            raise FeedError(f"preprocess: tokenizer is {self.tokenizer!r}, expected a file")


class Lines:
    """The lines of a text file that are not empty, each a sample."""

    files: Sequence[Path] = ()
    classes: Sequence[str] = ()

    def __init__(self, path: Path, make: Callable[[str], Raw], origin: SampleOrigin) -> None:
        self.origin = origin
        self._path, self._make = path, make
        self._count = sum(1 for _ in self._lines())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        for number, line in self._lines():
            yield f"{self._path}, line {number}", self._make(line)

    def _lines(self) -> Iterator[tuple[int, str]]:
        try:
            with self._path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if text := line.rstrip("\r\n"):
                        yield number, text
        except OSError as error:
            raise FeedError(f"{self._path}: cannot be read as text: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise FeedError(f"{self._path}: cannot be read as text: not UTF-8 ({error.reason})") from None


def lines(path: Path, inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts) -> Lines:
    """The lines of a file as samples.

    Args:
        path: the file.
        inputs: inputs of the model.
        values: values of the description.
        facts: facts about the model.

    Raises:
        FeedError: no tokenizer, one that does not fit the model, or a file that cannot be read.
    """
    make, origin = text_maker(path, inputs, values, facts)
    return Lines(path, make, origin)


def text_maker(
    where: Path, inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts
) -> tuple[Callable[[str], Raw], SampleOrigin]:
    """The maker of inputs from a text, and the origin of its samples.

    Args:
        where: the file of the texts.
        inputs: inputs of the model.
        values: values of the description; a record of the model completes them.
        facts: facts about the model.

    Raises:
        FeedError: no tokenizer, or one that does not fit the model.
    """
    texts = [i for i in inputs if i.element == "tensor(string)"]
    if len(texts) == 1 and all(i.optional or i in texts for i in inputs):
        described(TextSteps, values, "texts")
        return lambda line: {texts[0].name: _string(line, texts[0])}, SampleOrigin(kind="text")
    record = facts.recorded.preprocess if facts.recorded and facts.recorded.kind == "text" else None
    recorded = {k: v for k, v in (record or {}).items() if k != "tokenizer" or Path(str(v)).is_file()}
    steps = described(TextSteps, {**recorded, **values}, "texts")
    tokenizer, reason = _tokenizer_file(where, inputs, steps, facts)
    tokens = Tokens(inputs, open_tokenizer(tokenizer), steps.max_length)
    assumed = [] if steps.tokenizer else [f"tokenizer={tokenizer}"]
    if steps.max_length == _MAX_LENGTH:
        assumed.append(f"max_length={_MAX_LENGTH}")
    assumed += tokens.assumed
    origin = SampleOrigin(
        kind="text", tokenizer=str(tokenizer), assumed=tuple(assumed),
        preprocess={"tokenizer": str(tokenizer), "max_length": steps.max_length},
        reason="as the file records" if "tokenizer" in recorded and "tokenizer" not in values else reason,
    )  # fmt: skip
    return tokens, origin


def _string(line: str, spec: Input) -> NDArray[Any]:
    return np.full((1,) * len(spec.shape), line, object)


def _tokenizer_file(
    where: Path, inputs: Sequence[Input], steps: TextSteps, facts: ModelFacts
) -> tuple[Path, str | None]:
    """The file of the tokenizer, and where it was found; None: it was given."""
    if steps.tokenizer is not None:
        file = Path(steps.tokenizer)
        if not file.is_file():
            raise FeedError(f"preprocess: tokenizer {str(file)!r} is not a file")
        if file.suffix.lower() not in (".json", ".onnx"):
            raise FeedError(f"preprocess: tokenizer {str(file)!r}, expected a tokenizer.json or an .onnx model")
        return file, None
    names = ("tokenizer.onnx", "tokenizer.json")
    near = next((file for name in names if (file := where.parent / name).is_file()), None)
    if near is not None:
        return near, "found beside the texts; --preprocess tokenizer=FILE names another"
    if (beside := facts.file(*names)) is not None:
        return beside, "found beside the model; --preprocess tokenizer=FILE names another"
    raise FeedError(
        f"{where}: text needs a tokenizer: give --preprocess tokenizer=FILE (a tokenizer.json, which models of the Hugging "
        f"Face hub have beside them, or an .onnx), or put it beside the model; {expected(inputs)}"
    )


class Tokens:
    """Makes the inputs of a model from the tokens of a line: one sequence, padded where the model's length is fixed."""

    def __init__(self, inputs: Sequence[Input], tokenizer: Tokenizer, max_length: int) -> None:
        self._inputs = [i for i in inputs if not i.optional]
        self._tokenizer, self._max_length = tokenizer, max_length
        lengths = {i.shape[-1] for i in self._inputs if i.shape and isinstance(i.shape[-1], int) and i.shape[-1] > 1}
        self._fixed = int(next(iter(lengths)) or 0) if len(lengths) == 1 else 0
        self.assumed = [f"padded to {self._fixed} tokens"] if self._fixed else []

    def __call__(self, line: str) -> Raw:
        """The inputs for one line."""
        tokens = self._tokenizer.tokens(line)
        ids = tokens["input_ids"]
        length = min(len(ids), self._max_length, self._fixed or len(ids))
        if length < len(ids):  # the last token closes the text
            tokens = {n: np.concatenate([a[: length - 1], a[-1:]]) for n, a in tokens.items() if len(a) == len(ids)}
        arrays = {
            "attention_mask": np.ones(length, np.int64),
            "token_type_ids": np.zeros(length, np.int64),
            "position_ids": np.arange(length, dtype=np.int64),
            **tokens,
        }
        return {i.name: self._shaped(i, arrays) for i in self._inputs}

    def _shaped(self, spec: Input, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        # A single input takes the ids, under any name.
        name = "input_ids" if len(self._inputs) == 1 else spec.name
        if name not in arrays:
            raise FeedError(f"{self._tokenizer.path}: gives {', '.join(arrays)}, nothing for input {spec}")
        missing = max(0, self._fixed - len(arrays[name]))
        padded = np.pad(
            arrays[name], (0, missing), constant_values=self._tokenizer.pad_id if name == "input_ids" else 0
        )
        return padded.reshape((1,) * (len(spec.shape) - 1) + (-1,))
