"""The accuracy of two models on labelled samples: the part whose best answer is the label."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feeds, Label
from onnxquant.json_data import OPTIONAL

# Samples that are judged at most, and seconds after which no further one is.
_MOST_SAMPLES, _SECONDS = 500, 30.0
# Classes whose names are shown.
_SHOWN = 3


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of two models.

    Attributes:
        original, quantized: number of samples whose best answer is the label.
        samples: number of labelled samples.
        output: output whose largest value is the answer.
        labels: origin of the labels.
        mapping: names of the first classes with their numbers, where labels are names.
    """

    original: int
    quantized: int
    samples: int
    output: str
    labels: str
    mapping: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)

    @property
    def text(self) -> str:
        """The accuracies in percent."""
        before, after = (100 * right / self.samples for right in (self.original, self.quantized))
        return f"{before:.1f} -> {after:.1f} %"


def measure(original: Path, quantized: Path, feeds: Feeds, threads: int | None, labels: str) -> Accuracy | str:
    """The accuracy of two models, or the reason why it is not known; empty where samples have no labels.

    Args:
        original: the original model.
        quantized: the quantized one.
        feeds: samples, perhaps with labels.
        threads: number of threads of the sessions.
        labels: origin of the labels.

    Raises:
        ModelError: a model does not load or run.
    """
    sessions = [runtime.open_session(p, runtime.session_options(threads=threads)) for p in (original, quantized)]
    right, count, begin = [0, 0], 0, time.monotonic()
    answer: _Answer | None = None
    for feed, own in feeds.labelled():
        if own is None or count >= _MOST_SAMPLES or time.monotonic() - begin > _SECONDS:
            break
        outputs = [runtime.run(session, feed) for session in sessions]
        if answer is None:
            choice = _answer(outputs[0], own, feeds.classes)
            if isinstance(choice, str):
                return choice
            answer = choice
        numbers = answer.numbers(own)
        for i, output in enumerate(outputs):
            best = answer.of(output)
            right[i] += sum(n is not None and n == b for n, b in zip(numbers, best, strict=False))
        count += sum(n is not None for n in numbers)
    if answer is None or not count:
        return ""
    mapping = dict(list(answer.classes.items())[:_SHOWN]) or None
    return Accuracy(right[0], right[1], count, answer.output, labels, mapping)


@dataclass(frozen=True)
class _Answer:
    """An output that chooses a class.

    Attributes:
        output: its name.
        classes: number of each class by name.
    """

    output: str
    classes: Mapping[str, int]

    def of(self, outputs: Mapping[str, NDArray[np.generic]]) -> list[int]:
        """The class that a model chooses for each sample."""
        scores = np.asarray(outputs[self.output])
        flat = scores.reshape(len(scores), -1)
        return [int(n) for n in (flat[:, 0] if scores.dtype.kind in "iu" else flat.argmax(1))]

    def numbers(self, labels: Sequence[Label]) -> list[int | None]:
        """The number of each label; None where it has none."""
        return [label if isinstance(label, int) else self.classes.get(label) for label in labels]


def _answer(
    outputs: Mapping[str, NDArray[np.generic]], labels: Sequence[Label], classes: Sequence[str]
) -> _Answer | str:
    """The output that chooses among classes; or the reason why there is none."""
    sizes = {name: _classes(np.asarray(o)) for name, o in outputs.items()}
    largest = max((label for label in labels if isinstance(label, int)), default=0)
    name = next((n for n, size in sizes.items() if size and size > largest), None)
    if name is None:
        return f"no accuracy: no output chooses among {largest + 1} classes or more"
    names = [label for label in labels if isinstance(label, str) and label]
    if not names:
        return _Answer(name, {})
    if len(classes) != sizes[name]:
        return (
            f"no accuracy: {len(classes) or 'no'} folders of classes, and output {name!r} chooses among {sizes[name]}: "
            f"--labels FILE says which class each is"
        )
    return _Answer(name, {folder: number for number, folder in enumerate(classes)})


def _classes(output: NDArray[np.generic]) -> int | None:
    """The number of classes among which an output chooses; None where it chooses none."""
    if output.dtype.kind in "iu":
        return 1 << 31 if output.ndim == 1 or output.shape[1:] == (1,) else None
    is_vector = output.ndim >= 2 and output.size == output.shape[0] * max(output.shape[1:])
    return output[0].size if output.dtype.kind == "f" and is_vector and output[0].size > 1 else None
