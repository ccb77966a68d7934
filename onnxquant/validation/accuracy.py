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
# Samples of which a good model gets more right than chance does, nearly always.
_ENOUGH = 5
# Number of classes of outputs that are the number of the class, which may be any.
_ANY = 1 << 31
# Words for the two labels of outputs that say yes or no.
_NO_AND_YES = {"no": 0, "false": 0, "n": 0, "f": 0, "yes": 1, "true": 1, "y": 1, "t": 1}


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of two models.

    Attributes:
        original, quantized: number of samples whose best answer is the label.
        samples: number of labelled samples.
        output: output whose largest value is the answer.
        labels: origin of the labels.
        mapping: names of the first classes with their numbers, where labels are names.
        classes: number of classes that it chooses among, two of yes and no; None: not known.
    """

    original: int
    quantized: int
    samples: int
    output: str
    labels: str
    mapping: Mapping[str, int] | None = field(default=None, metadata=OPTIONAL)
    classes: int | None = field(default=None, metadata=OPTIONAL)

    @property
    def is_at_chance(self) -> bool:
        """Whether the original has no more right than who guesses: what it is fed, or the labels, cannot be its own."""
        return self.classes is not None and self.samples >= _ENOUGH and self.original * self.classes <= self.samples

    @property
    def text(self) -> str:
        """The accuracies in percent."""
        before, after = (100 * right / self.samples for right in (self.original, self.quantized))
        return f"{before:.1f} -> {after:.1f} %"


def measure(
    original: Path,
    quantized: Path,
    feeds: Feeds,
    threads: int | None,
    labels: str,
    thresholds: Mapping[str, float] | None = None,
) -> Accuracy | str:
    """The accuracy of two models, or the reason why it is not known; empty where samples have no labels.

    Args:
        original: the original model.
        quantized: the quantized one.
        feeds: samples, perhaps with labels.
        threads: number of threads of the sessions.
        labels: origin of the labels.
        thresholds: number above which an answer is yes, of each output that says yes or no; None: there are none.

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
            choice = _answer(outputs[0], own, feeds.classes, thresholds or {})
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
    mapping = dict(list(answer.classes.items())[:_SHOWN]) if feeds.classes and answer.classes else None
    number = answer.number if answer.number is not None and answer.number < _ANY else None
    return Accuracy(right[0], right[1], count, answer.output, labels, mapping, number)


@dataclass(frozen=True)
class _Answer:
    """An output that chooses a class.

    Attributes:
        output: its name.
        classes: number of each class by name.
        number: number of classes.
        threshold: number above which the answer is yes, which is class 1; None: the largest value is the answer.
    """

    output: str
    classes: Mapping[str, int]
    number: int | None
    threshold: float | None = None

    def of(self, outputs: Mapping[str, NDArray[np.generic]]) -> list[int]:
        """The class that a model chooses for each sample."""
        scores = np.asarray(outputs[self.output])
        flat = scores.reshape(len(scores), -1) if scores.ndim else scores.reshape(1, 1)
        if self.threshold is not None:
            return [int(n > self.threshold) for n in flat[:, 0]]
        return [int(n) for n in (flat[:, 0] if scores.dtype.kind in "iu" else flat.argmax(1))]

    def numbers(self, labels: Sequence[Label]) -> list[int | None]:
        """The number of each label; None where it has none."""
        return [self._number(label) for label in labels]

    def _number(self, label: Label) -> int | None:
        if isinstance(label, int):
            return label if self.threshold is None or label in (0, 1) else None
        return self.classes.get(label if self.threshold is None or label in self.classes else label.lower())


def _answer(
    outputs: Mapping[str, NDArray[np.generic]],
    labels: Sequence[Label],
    classes: Sequence[str],
    thresholds: Mapping[str, float],
) -> _Answer | str:
    """The output that chooses among classes, or says yes or no; or the reason why there is none."""
    sizes = {name: _classes(np.asarray(o)) for name, o in outputs.items()}
    sizes = {name: size or (2 if name in thresholds else None) for name, size in sizes.items()}
    largest = max((label for label in labels if isinstance(label, int)), default=0)
    name = next((n for n, size in sizes.items() if size and size > largest), None)
    if name is None:
        yes_or_no = ", or says yes or no" if largest <= 1 else ""
        return f"no output chooses among {max(largest + 1, 2)} classes or more{yes_or_no}"
    number, threshold = sizes[name], thresholds.get(name)
    names = [label for label in labels if isinstance(label, str) and label]
    if not names:
        return _Answer(name, {}, number, threshold)
    if threshold is not None and not classes and all(label.lower() in _NO_AND_YES for label in names):
        return _Answer(name, _NO_AND_YES, number, threshold)
    if len(classes) != number:
        what = f"{len(classes)} folders of classes" if classes else f"labels are names, such as {names[0]!r}"
        remedy = "says which class each is" if classes else "has the number of each sample's class"
        among = "says yes or no" if threshold is not None else f"chooses among {number}"
        return f"{what}, and output {name!r} {among}: --labels FILE {remedy}"
    return _Answer(name, {folder: place for place, folder in enumerate(classes)}, number, threshold)


def _classes(output: NDArray[np.generic]) -> int | None:
    """The number of classes among which an output chooses; None where it chooses none."""
    if output.dtype.kind in "iu":
        return _ANY if output.ndim == 1 or output.shape[1:] == (1,) else None
    is_vector = output.ndim >= 2 and output.size == output.shape[0] * max(output.shape[1:])
    return output[0].size if output.dtype.kind == "f" and is_vector and output[0].size > 1 else None
