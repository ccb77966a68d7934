"""Samples from the rows of .csv, .tsv and .jsonl files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxquant.calibration.feeds.base import Input, Raw
from onnxquant.calibration.feeds.facts import ModelFacts
from onnxquant.calibration.feeds.rows import Row, no_maker, row_maker
from onnxquant.errors import FeedError

_LINES = (".jsonl", ".ndjson")
ENDINGS = (".csv", ".tsv", *_LINES)


class Table:
    """The rows of a file, each a sample.

    Args:
        path: the file.
        inputs: inputs of the model.
        values: values of the description.
        facts: facts about the model.

    Raises:
        FeedError: the file cannot be read, or no inputs can be made of its rows.
    """

    files: Sequence[Path] = ()
    classes: Sequence[str] = ()

    def __init__(self, path: Path, inputs: Sequence[Input], values: Mapping[str, Any], facts: ModelFacts) -> None:
        self._path = path
        _, first = next(self._rows(), (0, None))
        if first is None:
            raise FeedError(f"{path}: holds no rows")
        maker = row_maker(first, str(path), inputs, values, facts)
        if maker is None:
            raise no_maker(first, str(path), inputs)
        self._make, self.origin = maker, maker.origin
        self._count = sum(1 for _ in self._rows())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        for number, row in self._rows():
            where = f"{self._path}, row {number}"
            try:
                yield where, self._make(row, where)
            except KeyError as error:
                raise FeedError(f"{where}: has no column {error}") from None
            except (ValueError, TypeError) as error:
                raise FeedError(f"{where}: {error}") from None

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Rows with their numbers, counted from 1 without the heading."""
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                if self._path.suffix.lower() in _LINES:
                    for number, line in enumerate(filter(str.strip, file), 1):
                        row = json.loads(line)
                        yield number, row if isinstance(row, dict) else {"text": row}
                else:
                    delimiter = "\t" if self._path.suffix.lower() == ".tsv" else ","
                    yield from enumerate(csv.DictReader(file, delimiter=delimiter, restval=""), 1)
        except OSError as error:
            raise FeedError(f"{self._path}: cannot be read as a table: {error.strerror}") from None
        except (UnicodeDecodeError, ValueError, csv.Error, RecursionError) as error:
            raise FeedError(f"{self._path}: cannot be read as a table: {error}") from None
