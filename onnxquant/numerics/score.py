"""The judge of outputs: their distance from those of the float model, of the worst part of the worst output.

Searches choose candidates by it, and the proof and its verdict report it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxquant.json_data import OPTIONAL
from onnxquant.numerics.align import BY_BEGINNINGS, BY_BOXES, Aligned, align, arrays_of
from onnxquant.numerics.classes import NO_FACTS, Answering, AnswerKind, Heads, answering, are_probabilities, logits
from onnxquant.numerics.decibels import decibels
from onnxquant.numerics.parts import Part, named_part, parts_by_scale
from onnxquant.numerics.unseen import UnseenQuality, kept_ratio

# Outputs that keep less are to be measured on the task before the file is used, and those that keep still less are lost.
GOOD_DB, LOW_DB = 20.0, 10.0
# The same of the worst tenth of samples, where no answers are counted: with twice the noise of the others they are no worse.
GOOD_TENTH_DB = GOOD_DB - 3.0
# Of fewer samples than this the worst tenth is less than one.
_TENTHS = 10
# Better samples count as exact.
_EXACT_DB = 100.0
# A sample's signal counts as at least this part of the mean one: silence has no signal of its own.
_LEAST_SIGNAL = 0.01
# Answers that tell whether numbers are above a threshold.
_THRESHOLDS = (AnswerKind.YES_OR_NO, AnswerKind.LABELS)


class Score(NamedTuple):
    """Signal to noise ratios of outputs against those of the float model, of the worst part, in decibels.

    Attributes:
        criterion: ratio by which candidates are compared. Probabilities are replaced by the logits that a Softmax made them
            from: the error of a probability near 1/2 is many thousand times that of one near 1, so that otherwise a few
            samples would decide. With ten samples or more it is the mean of the ratio and that of the worst tenth of them.
        total: ratio of the outputs as they are.
        samples: ratio of each sample; empty where a part is not in every sample.
    """

    criterion: float
    total: float
    samples: tuple[float, ...] = ()

    @property
    def typical(self) -> float:
        """The mean of the samples and that of the worst tenth of them, together: one sample cannot decide alone.

        Where a part is not in every sample, the criterion.
        """
        if len(self.samples) < 2:
            return self.criterion
        ratios = sorted(min(ratio, _EXACT_DB) for ratio in self.samples)
        worst = ratios[: max(1, len(ratios) // _TENTHS)]
        return (sum(ratios) / len(ratios) + sum(worst) / len(worst)) / 2

    def plus(self, gain: float) -> Score:
        """The score of outputs that are better by so many decibels; their total is not known to be."""
        return Score(self.criterion + gain, self.total, tuple(ratio + gain for ratio in self.samples))

    def wins_on_most(self, other: Score, sources: Sequence[str]) -> bool:
        """Whether the samples of most sources are better than in another score; true where samples have no ratios.

        Args:
            other: the other score.
            sources: source of each sample.
        """
        gains: dict[str, float] = {}
        for source, ratio, ratio_of_other in zip(sources, self.samples, other.samples, strict=False):
            gains[source] = gains.get(source, 0.0) + ratio - ratio_of_other
        return not gains or 2 * sum(gain > 0 for gain in gains.values()) > len(gains)


@dataclass(frozen=True)
class PartQuality:
    """Quality of one part of the outputs.

    Attributes:
        output: name of the output, with the index of the part.
        sqnr_db: ratio of signal and noise over all samples; None for values that are no floats.
        worst_tenth_db: the same over the worst tenth of the samples; None for fewer than ten, and where a sample has one
            number alone: the ratio of a small one says that it is small, not that it is wrong.
        worst_sample_db: that of the worst sample.
        worst_sample: its place, counted from 0.
        same, answers: number of answers that are the same, and of all; None where there are none.
        answer: kind of the answers, a value of ``AnswerKind``.
        shape: the remark that the shape of the output depends on values, and how it was compared.
    """

    output: str
    sqnr_db: float | None = None
    worst_tenth_db: float | None = field(default=None, metadata=OPTIONAL)
    worst_sample_db: float | None = field(default=None, metadata=OPTIONAL)
    worst_sample: int | None = field(default=None, metadata=OPTIONAL)
    same: int | None = field(default=None, metadata=OPTIONAL)
    answers: int | None = field(default=None, metadata=OPTIONAL)
    answer: str | None = field(default=None, metadata=OPTIONAL)
    shape: str | None = field(default=None, metadata=OPTIONAL)

    @property
    def judges(self) -> bool:
        """Whether there are answers that judge a file, which places of largest values do not."""
        return bool(self.answers) and self.answer != AnswerKind.LARGEST


@dataclass(frozen=True)
class SampleQuality:
    """Quality of all outputs on one sample.

    Attributes:
        sample: its place, counted from 0.
        output: the part that keeps least.
        sqnr_db: ratio of signal and noise of this part; None where no output is a float.
        expected, answer: the first answer that differs, as the float model and as the other one give it; None: none does.
        same, answers: number of answers that are the same, and of all; None where there are none.
    """

    sample: int
    output: str = ""
    sqnr_db: float | None = None
    expected: str | None = field(default=None, metadata=OPTIONAL)
    answer: str | None = field(default=None, metadata=OPTIONAL)
    same: int | None = field(default=None, metadata=OPTIONAL)
    answers: int | None = field(default=None, metadata=OPTIONAL)

    @property
    def changed(self) -> int:
        """Number of answers that are not the same."""
        return (self.answers or 0) - (self.same or 0)


@dataclass(frozen=True)
class UnseenOutputs:
    """The quality of outputs on samples that have not made the models that they come from.

    Attributes:
        parts: quality of each part of the outputs, the worst first.
        expected: the quality to expect on samples of other sources; None where no part is in every sample.
    """

    parts: tuple[PartQuality, ...]
    expected: UnseenQuality | None


@dataclass(frozen=True)
class _Answers:
    """Kind of some answers, number of those that are the same, and of all."""

    kind: AnswerKind
    same: int
    count: int


@dataclass
class _Powers:
    """Powers of signal and noise of one part, by sample."""

    criterion: list[tuple[float, float]] = field(default_factory=list)
    total: list[tuple[float, float]] = field(default_factory=list)

    @property
    def has_signal(self) -> bool:
        """Whether the part is ever anything but zero."""
        return any(signal for signal, _ in self.total) and any(signal for signal, _ in self.criterion)

    def criterion_db(self) -> float:
        """The ratio by which candidates are compared."""
        ratio = _ratio(self.criterion)
        if len(self.criterion) < _TENTHS or not math.isfinite(ratio):
            return ratio
        return (ratio + _worst_tenth(self.criterion)) / 2


class Judge:
    """The comparison of outputs with those of the float model.

    Args:
        reference: outputs of the float model by name, a mapping per sample.
        names: outputs, or parts of them, that matter (``--judge``); empty: all.
        heads: facts about the outputs that say which hold answers.

    Raises:
        RecipeError: no such output.
    """

    def __init__(
        self, reference: Sequence[Mapping[str, Any]], names: Sequence[str] = (), heads: Heads = NO_FACTS
    ) -> None:
        self._reference = [arrays_of(outputs) for outputs in reference]
        outputs = list(self._reference[0]) if self._reference else []
        self._parts = [named_part(name, outputs) for name in names] if names else self._parts_by_scale(outputs)
        self._has_probabilities = any(self._holds_probabilities(part) for part in self._parts)
        ways = {part.output: self._answering(part, heads, is_chosen=bool(names)) for part in self._parts}
        self._answering_of = {output: way for output, way in ways.items() if way is not None}

    def _parts_by_scale(self, outputs: Sequence[str]) -> list[Part]:
        parts = []
        for name in outputs:
            arrays = [sample[name] for sample in self._reference if name in sample]
            is_split = arrays[0].dtype.kind == "f" and not are_probabilities(arrays[0])
            parts += parts_by_scale(name, arrays) if is_split else [Part(name)]
        return parts

    def score(self, outputs: Sequence[Mapping[str, Any]]) -> Score:
        """The score of a candidate's float outputs; infinite where there is nothing to compare.

        Args:
            outputs: outputs of the candidate, a mapping per sample.
        """
        aligned = self._aligned(outputs)
        powers = [self._powers(part, aligned) for part in self._parts if self._is_float(part)]
        counted = [p for p in powers if p.has_signal]
        if not counted:
            return Score(math.inf, math.inf)
        ratios = [_sample_ratios(p.criterion) for p in counted]
        is_whole = all(len(r) == len(outputs) for r in ratios)
        samples = tuple(min(parts) for parts in zip(*ratios, strict=True)) if is_whole else ()
        return Score(min(p.criterion_db() for p in counted), min(_ratio(p.total) for p in counted), samples)

    def quality(self, outputs: Sequence[Mapping[str, Any]]) -> list[PartQuality]:
        """The quality of each part, the worst first.

        Args:
            outputs: outputs to compare, a mapping per sample.
        """
        aligned = self._aligned(outputs)
        parts = [self._quality(part, aligned) for part in self._parts]
        return sorted(parts, key=lambda p: (math.inf if p.sqnr_db is None else p.sqnr_db, p.output))

    def samples(self, outputs: Sequence[Mapping[str, Any]]) -> list[SampleQuality]:
        """The quality of each sample.

        Args:
            outputs: outputs to compare, a mapping per sample.
        """
        aligned = self._aligned(outputs)
        out = [SampleQuality(place) for place in range(len(aligned))]
        for part in self._parts:
            ratios = _sample_ratios(self._powers(part, aligned).total) if self._is_float(part) else []
            for place, ratio in enumerate(ratios) if len(ratios) == len(out) else ():
                known = out[place].sqnr_db
                if known is None or ratio < known:
                    out[place] = replace(out[place], output=part.title, sqnr_db=ratio)
            for place, sample in enumerate(aligned):
                answers = self._answers(part, [sample])
                is_judged = answers is not None and answers.kind is not AnswerKind.LARGEST
                if answers and is_judged and answers.count - answers.same >= out[place].changed:
                    expected, answer = self._first_difference(part, sample) if answers.same < answers.count else (None, None)
                    out[place] = replace(
                        out[place], same=answers.same, answers=answers.count, expected=expected, answer=answer
                    )
        return out

    def _first_difference(self, part: Part, sample: Aligned) -> tuple[str | None, str | None]:
        """The first top class, or number of a yes or no, that differs; None of boxes and of whole numbers."""
        way = self._answering_of.get(part.output)
        if part.output in sample.matched or not self._is_float(part) or way is None:
            return None, None
        sides = [part.of(side[part.output]) for side in (sample.expected, sample.outputs)]
        if way.kind in _THRESHOLDS:
            values = [side.reshape(-1) for side in sides]
            place = int(((values[0] > way.threshold) != (values[1] > way.threshold)).argmax())
            label = f"label {place}: " if way.kind is AnswerKind.LABELS else ""
            return f"{label}{values[0][place]:.3g}", f"{values[1][place]:.3g}"
        tops = [side.argmax(-1).reshape(-1) for side in sides]
        place = int((tops[0] != tops[1]).argmax())
        return str(tops[0][place]), str(tops[1][place])

    def unseen(self, outputs: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> UnseenOutputs:
        """The quality on samples that have not made what is judged on them.

        Args:
            outputs: outputs to compare, a mapping per sample, each of a model that was made without its source.
            sources: source of each sample.
        """
        aligned = self._aligned(outputs)
        powers = {part.title: self._powers(part, aligned) for part in self._parts if self._is_float(part)}
        qualities = [
            self._unseen_of(title, p, sources)
            for title, p in powers.items()
            if p.has_signal and len(p.total) == len(sources)
        ]
        expected = min(qualities, key=lambda q: q.sqnr_db, default=None)
        whole = [p.total for p in powers.values() if p.has_signal and len(p.total) == len(sources)]
        ratios = [ratio for own in whole if (ratio := kept_ratio(own, sources)) is not None]
        expected = expected and replace(expected, kept_db=min(ratios, default=None))
        return UnseenOutputs(tuple(self.quality(outputs)), expected)

    def _unseen_of(self, title: str, powers: _Powers, sources: Sequence[str]) -> UnseenQuality:
        """The quality of a part on samples of other sources."""
        quality = UnseenQuality.of(title, _sample_ratios(powers.total), sources)
        return quality if self._has_tenths(title) else replace(quality, worst_tenth_db=None)

    def _has_tenths(self, title: str) -> bool:
        """Whether samples of a part can be worse than others: one number alone is only smaller."""
        parts = [part for part in self._parts if part.title == title]
        return any(np.size(part.of(s[part.output])) > 1 for part in parts for s in self._reference if part.output in s)

    def of_samples(self, places: Sequence[int]) -> Judge:
        """The judge of some of the samples.

        Args:
            places: positions of the samples.
        """
        judge = copy(self)
        judge._reference = [self._reference[place] for place in places]
        return judge

    def _aligned(self, outputs: Sequence[Mapping[str, Any]]) -> list[Aligned]:
        return [align(a, arrays_of(b)) for a, b in zip(self._reference, outputs, strict=True)]

    def _is_float(self, part: Part) -> bool:
        return all(sample[part.output].dtype.kind == "f" for sample in self._reference if part.output in sample)

    def _holds_probabilities(self, part: Part) -> bool:
        """Whether a part is a whole output whose every row could be that of a Softmax, a row for each sample."""
        arrays = [sample[part.output] for sample in self._reference if part.output in sample]
        is_whole = bool(arrays) and not part.index and self._is_float(part)
        return is_whole and all(a.ndim == 2 and are_probabilities(a) for a in arrays)

    def _answering(self, part: Part, heads: Heads, *, is_chosen: bool) -> Answering | None:
        """The way in which a part of floats holds answers; beside probabilities others hold none, such as boxes."""
        if part.index or not self._is_float(part) or (self._has_probabilities and not self._holds_probabilities(part)):
            return None
        arrays = [sample[part.output] for sample in self._reference if part.output in sample]
        return answering(part.output, arrays, heads, is_chosen=is_chosen)

    def _powers(self, part: Part, aligned: Sequence[Aligned]) -> _Powers:
        """Powers of a part by sample. A box that is missing on one side is noise to the criterion."""
        powers = _Powers()
        for sample, whole in zip(aligned, self._reference, strict=True):
            if part.output not in sample.expected:
                continue
            a, b = (part.of(side[part.output]).astype(np.float64) for side in (sample.expected, sample.outputs))
            signal, noise = _signal_and_noise(a, b)
            powers.total.append((signal, noise))
            if not part.index and are_probabilities(a):
                powers.criterion.append(_signal_and_noise(logits(a), logits(b)))
            elif part.output in sample.matched and sample.boxes:
                all_boxes = _signal_and_noise(part.of(whole[part.output]).astype(np.float64), None)[0]
                missing = 1 - len(a.reshape(-1)) / max(1, part.of(whole[part.output]).size)
                powers.criterion.append((all_boxes or signal, noise + missing * all_boxes))
            else:
                powers.criterion.append((signal, noise))
        return powers

    def _quality(self, part: Part, aligned: Sequence[Aligned]) -> PartQuality:
        """The figures of a part: its answers, and its noise over all samples, the worst one and the worst tenth."""
        quality = PartQuality(part.title, shape=_remark(part.output, aligned))
        if answers := self._answers(part, aligned):
            quality = replace(quality, answer=answers.kind, same=answers.same, answers=answers.count)
        if not self._is_float(part):
            return quality
        powers = self._powers(part, aligned).total
        if not any(signal for signal, _ in powers):
            return replace(quality, sqnr_db=-math.inf if any(noise for _, noise in powers) else math.inf)
        ratios = _sample_ratios(powers)
        if len(ratios) > 1:
            worst = min(range(len(ratios)), key=lambda i: ratios[i])
            quality = replace(quality, worst_sample_db=ratios[worst], worst_sample=worst)
        tenth = _worst_tenth(powers) if len(powers) >= _TENTHS and self._has_tenths(part.title) else None
        return replace(quality, sqnr_db=_ratio(powers), worst_tenth_db=tenth)

    def _answers(self, part: Part, aligned: Sequence[Aligned]) -> _Answers | None:
        """The answers that a part holds; None where it holds none."""
        name = part.output
        boxes = [s for s in aligned if name in s.matched and s.boxes]
        if boxes:
            return _Answers(AnswerKind.BOXES, sum(s.same or 0 for s in boxes), sum(s.boxes or 0 for s in boxes))
        pairs = [(part.of(s.expected[name]), part.of(s.outputs[name])) for s in aligned if name in s.expected]
        if not self._is_float(part):
            same = [np.asarray(a == b) for a, b in pairs]
            return _Answers(AnswerKind.VALUES, sum(int(s.sum()) for s in same), sum(s.size for s in same))
        way = self._answering_of.get(name)
        if not pairs or part.index or way is None:
            return None
        if way.kind in _THRESHOLDS:
            return _above(way, pairs)
        # Rows of one number have no top class.
        same = [np.asarray(a.argmax(-1) == b.argmax(-1))[a.max(-1) > a.min(-1)] for a, b in pairs]
        count = sum(s.size for s in same)
        return _Answers(way.kind, sum(int(s.sum()) for s in same), count) if count else None


def _above(way: Answering, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> _Answers | None:
    """The answers yes or no; of labels those that either side gives, since most are given to no sample."""
    sides = [(a > way.threshold, b > way.threshold) for a, b in pairs]
    counted = [(a | b) if way.kind is AnswerKind.LABELS else np.ones_like(a) for a, b in sides]
    count = sum(int(c.sum()) for c in counted)
    same = sum(int(((a == b) & c).sum()) for (a, b), c in zip(sides, counted, strict=True))
    return _Answers(way.kind, same, count) if count else None


def _remark(output: str, aligned: Sequence[Aligned]) -> str | None:
    """The way in which an output was compared whose shape depends on values; None where it does not."""
    if incomparable := [s.incomparable[output] for s in aligned if output in s.incomparable]:
        return f"not compared: {incomparable[0]}"
    if any(output in s.matched for s in aligned):
        return BY_BOXES
    cut = sum(output in s.cut for s in aligned)
    return f"other lengths in {cut} of {len(aligned)} samples: {BY_BEGINNINGS} compared" if cut else None


def _ratio(powers: Sequence[tuple[float, float]]) -> float:
    return decibels(sum(signal for signal, _ in powers), sum(noise for _, noise in powers))


def _sample_ratios(powers: Sequence[tuple[float, float]]) -> list[float]:
    """The ratio of each sample."""
    least = _LEAST_SIGNAL * sum(signal for signal, _ in powers) / max(1, len(powers))
    return [decibels(max(signal, least), noise) for signal, noise in powers]


def _worst_tenth(powers: Sequence[tuple[float, float]]) -> float:
    """The ratio over the worst tenth of the samples."""
    ratios = _sample_ratios(powers)
    worst = sorted(range(len(ratios)), key=lambda i: ratios[i])[: max(1, len(ratios) // _TENTHS)]
    return sum(ratios[i] for i in worst) / len(worst)


def _signal_and_noise(expected: NDArray[np.float64], outputs: NDArray[np.float64] | None) -> tuple[float, float]:
    """Powers of the signal and of the noise, where the reference is finite."""
    finite = np.isfinite(expected)
    if outputs is not None and not finite.all():  # where the reference overflows, values beside it may do so, too
        finite &= np.isfinite(outputs)
    noise = 0.0 if outputs is None else float(((expected[finite] - outputs[finite]) ** 2).sum())
    return float((expected[finite] ** 2).sum()), noise
