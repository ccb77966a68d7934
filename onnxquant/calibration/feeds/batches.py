"""Batches of fixed size, made of single samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from onnxquant.calibration.feeds.base import Input, Raw, Source


def batch_size(inputs: Sequence[Input]) -> int:
    """The fixed number of samples that a model takes at once; 1 where its inputs do not agree about it.

    >>> batch_size([Input("x", "tensor(float)", (8, 3)), Input("rate", "tensor(int64)", ())])
    8
    """
    sizes = {spec.shape[0] for spec in inputs if len(spec.shape) > 1}
    size = next(iter(sizes)) if len(sizes) == 1 else 1
    return size if isinstance(size, int) and size > 1 else 1


def in_batches(source: Source, inputs: Sequence[Input], size: int) -> Source:
    """A source whose samples are batches: the source itself, where its samples are none that have to be joined."""
    first = next(iter(source), None) if size > 1 else None
    if first is None or not all(_is_one(first[1].get(spec.name), spec) for spec in inputs if len(spec.shape) > 1):
        return source
    return Batches(source, size)


def _is_one(value: Any, spec: Input) -> bool:  # noqa: ANN401 - an array, or what can be made one
    """Whether a value is one entry of a batch."""
    shape = np.shape(value)
    return len(shape) == len(spec.shape) and shape[0] == 1


class Batches:
    """Batches of consecutive samples. The last samples are left out where they fill none; fewer than one batch are repeated.

    Args:
        source: samples that are one entry each.
        size: number of samples in a batch.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        total = len(source)
        left_out, missing = (total % size, 0) if total >= size else (0, size - total)
        notes = [f"batches of {size}"]
        notes += [f"the last {left_out} of {total} samples are left out: they fill no batch"] if left_out else []
        notes += [f"{missing} samples are repeated to fill a batch"] if missing else []
        self.origin = replace(source.origin, assumed=(*(source.origin.assumed or ()), *notes))

    @property
    def files(self) -> Sequence[PurePath]:
        """None: a batch may hold several files."""
        return ()

    def __len__(self) -> int:
        return max(1, len(self._source) // self._size) if len(self._source) else 0

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        samples: list[tuple[str, Raw]] = []
        for sample in self._source:
            samples.append(sample)
            if len(samples) == self._size:
                yield _joined(samples)
                samples = []
        if 0 < len(self._source) < self._size:
            yield _joined([samples[i % len(samples)] for i in range(self._size)])


def _joined(samples: Sequence[tuple[str, Raw]]) -> tuple[str, Raw]:
    """One batch; what is no entry of a batch is taken from the first sample."""
    where, first = samples[0]
    joined = {}
    for name, value in first.items():
        array = np.asarray(value)
        is_entry = array.ndim > 1 and array.shape[0] == 1
        joined[name] = np.concatenate([np.asarray(raw[name]) for _, raw in samples]) if is_entry else value
    return f"{where} and {len(samples) - 1} more", joined
