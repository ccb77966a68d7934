"""Rows of a matrix in parts: one part after the other, or several at a time in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class RowSplit:
    """Size of the parts that rows are split into, and number of threads. Results depend on neither.

    Attributes:
        nbytes: bytes of float32 in a part. The default keeps a part and its temporaries in the cache of a core.
        threads: largest number of threads; None: as many as there are CPUs.
    """

    nbytes: int = 512 << 10
    threads: int | None = None


def row_ranges(rows: int, cols: int, nbytes: int, multiple: int = 1) -> Iterator[slice]:
    """Ranges of rows with ``nbytes`` bytes of float32 each. All but the last one have a multiple of ``multiple`` rows."""
    step = max(1, nbytes // (4 * max(cols, 1) * multiple)) * multiple
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def by_rows(rows: int, cols: int, work: Callable[[slice], T], split: RowSplit | None = None) -> list[T]:
    """Results of a function for each part of the rows, in the order of the rows.

    Args:
        rows: number of rows.
        cols: number of columns; with 0 columns ``work`` is never called.
        work: function of a range of rows.
        split: size of the parts, and threads.
    """
    split = split or RowSplit()
    return in_threads(work, list(row_ranges(rows, cols, split.nbytes)) if cols else [], split.threads)


def in_threads(work: Callable[[P], T], parts: Sequence[P], threads: int | None = None) -> list[T]:
    """Results of a function for each part, in the order of the parts.

    Args:
        work: function of a part.
        parts: the parts.
        threads: largest number of threads; None: as many as there are CPUs.
    """
    count = min(threads or os.cpu_count() or 1, len(parts))
    if count < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, parts))
