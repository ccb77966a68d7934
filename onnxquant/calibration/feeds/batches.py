"""Batches of fixed size, made of single samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np

from onnxquant.calibration.feeds.base import Input, Raw, Source
from onnxquant.calibration.feeds.labels import LABEL, labels_in


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
    """Batches of consecutive samples. Samples of the last batch are repeated where they do not fill it.

    Args:
        source: samples that are one entry each.
        size: number of samples in a batch.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size, self.classes = source, size, source.classes
        missing = -len(source) % size
        notes = [f"batches of {size}"]
        notes += [f"{missing} samples are repeated to fill a batch"] if missing else []
        self.origin = replace(source.origin, assumed=(*(source.origin.assumed or ()), *notes))

    @property
    def files(self) -> Sequence[PurePath]:
        """None: a batch may hold several files."""
        return ()

    def __len__(self) -> int:
        return -(-len(self._source) // self._size)

    def __iter__(self) -> Iterator[tuple[str, Raw]]:
        samples: list[tuple[str, Raw]] = []
        for sample in self._source:
            samples.append(sample)
            if len(samples) == self._size:
                yield _joined(samples)
                samples = []
        if samples:
            again = [samples[i % len(samples)] for i in range(self._size - len(samples))]
            yield _joined([*samples, *((where, _without_label(raw)) for where, raw in again)])


def _without_label(raw: Raw) -> Raw:
    """A sample that stands in a batch again; it is not judged twice."""
    return {**raw, LABEL: [""]} if LABEL in raw else raw


def _joined(samples: Sequence[tuple[str, Raw]]) -> tuple[str, Raw]:
    """One batch; what is no entry of a batch is taken from the first sample."""
    where, first = samples[0]
    joined: dict[str, Any] = {}
    for name, value in first.items():
        array = np.asarray(value)
        is_entry = array.ndim > 1 and array.shape[0] == 1
        joined[name] = np.concatenate([np.asarray(raw[name]) for _, raw in samples]) if is_entry else value
    if LABEL in first:
        labels = [labels_in(raw[LABEL]) for _, raw in samples]
        joined[LABEL] = np.array([label for own in labels for label in own or [""]], object)
    return f"{where} and {len(samples) - 1} more", joined
