"""Error and speed of quantized files against the float model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnxquant.errors import ModelError
from onnxquant.numerics.score import Judge
from onnxquant.runtime.sessions import open_session

from .sources import Files

Arrays = dict[str, NDArray[Any]]
_ROUNDS = 15
# Least time that is told apart from none.
_TICK = 1e-6


@dataclass
class Figures:
    """Measured figures of a file.

    Attributes:
        error: why there are none.
        sqnr_db: SQNR of the worst output over the test samples, on a CPU with VNNI; None where shapes differ, 999 for exact.
        here_db: the same on this CPU.
        part_db: that of the worst part of an output, by the tool's own judge: boxes and scores are parts of one output.
        samples_db: the same of each test sample.
        speed: speed as a multiple of float's: median over rounds, and the ends of its 95 % interval.
        beside: the same as a multiple of the speed of one of the files.
    """

    error: str = ""
    sqnr_db: float | None = None
    here_db: float | None = None
    part_db: float | None = None
    samples_db: tuple[float, ...] = ()
    speed: tuple[float, float, float] | None = None
    beside: tuple[float, float, float] | None = None


def feeds_of(path: Path) -> Iterator[Arrays]:
    """Samples of an archive."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    for i in range(len(next(iter(arrays.values())))):
        yield {name: np.asarray(array[i]) for name, array in arrays.items()}


def _session(path: Path, *, is_exact: bool = False) -> Any:  # noqa: ANN401 - onnxruntime's InferenceSession
    """A session with one thread; an exact one has the results of a CPU with VNNI on every CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if is_exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return open_session(path, options)


@dataclass(frozen=True)
class Quality:
    """Closeness to the float model's outputs, of the worst output that has the same shape in all samples.

    Attributes:
        sqnr_db: SQNR over all samples; None where there is no such output.
        samples_db: SQNR of each sample.
    """

    sqnr_db: float | None = None
    samples_db: tuple[float, ...] = ()


def quality(original: list[Arrays], session: Any, test: Path) -> Quality:  # noqa: ANN401 - an InferenceSession
    """The quality of what a session computes."""
    names = [o.name for o in session.get_outputs()]
    powers: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for exact, feed in zip(original, feeds_of(test), strict=True):
        for name, value in zip(names, session.run(None, feed), strict=True):
            if np.shape(value) == exact[name].shape:
                a, b = exact[name].astype(np.float64), np.asarray(value, np.float64)
                powers[name].append((float(np.square(a).sum()), float(np.square(a - b).sum())))
    comparable = [pairs for pairs in powers.values() if len(pairs) == len(original)]
    if not comparable:
        return Quality()
    worst = min(comparable, key=lambda pairs: _level(*map(sum, zip(*pairs, strict=True))))
    return Quality(_level(*map(sum, zip(*worst, strict=True))), tuple(_level(*pair) for pair in worst))


def worst_part(original: list[Arrays], session: Any, test: Path) -> float | None:  # noqa: ANN401 - an InferenceSession
    """The ratio of the worst part of the outputs; None where nothing can be compared."""
    names = [o.name for o in session.get_outputs()]
    outputs = [dict(zip(names, session.run(None, feed), strict=True)) for feed in feeds_of(test)]
    ratios = [part.sqnr_db for part in Judge(original, ()).quality(outputs) if part.sqnr_db is not None]
    return None if not ratios else float(np.clip(min(ratios), -999.0, 999.0))


def _level(power: float, noise: float) -> float:
    """Decibels; 999 stands for exact, -999 for values that are not finite."""
    if not math.isfinite(noise):
        return -999.0
    return 10 * math.log10(power / noise) if noise and power else 999.0


def _with_vnni(original: list[Arrays], path: Path, test: Path, here: Quality) -> Quality:
    """The quality on a CPU with VNNI; that on this one where onnxruntime cannot tell: products that share a weight."""
    try:
        return quality(original, _session(path, is_exact=True), test)
    except ModelError:
        return here


def speeds(files: dict[str, Path], test: Path, seconds: float) -> dict[str, list[float]]:
    """Processor seconds per call of each file, one figure a round; files take turns."""
    sessions = {name: _session(path) for name, path in files.items()}
    feed = next(feeds_of(test))
    begin = time.thread_time()
    for session in sessions.values():
        session.run(None, feed)
    calls = max(1, round(seconds / _ROUNDS / max(time.thread_time() - begin, 1e-5)))
    rounds: dict[str, list[float]] = {name: [] for name in sessions}
    random = np.random.default_rng(0)
    for _ in range(_ROUNDS):
        for name in random.permutation(list(sessions)):
            sessions[name].run(None, feed)
            begin = time.thread_time()
            for _ in range(calls):
                sessions[name].run(None, feed)
            rounds[name].append((time.thread_time() - begin) / calls)
    return rounds


def ratio(numerator: list[float], denominator: list[float]) -> tuple[float, float, float]:
    """Median of ratios of rounds, and the interval that holds it in 95 of 100 cases, by order statistics."""
    ratios = sorted(max(a, _TICK) / max(b, _TICK) for a, b in zip(numerator, denominator, strict=True))
    rank = max(0, int((len(ratios) - 1.96 * math.sqrt(len(ratios))) / 2))
    return median(ratios), ratios[rank], ratios[-1 - rank]


def measure(files: Files, outputs: dict[str, Path], seconds: float, result: Path, beside: str) -> None:
    """Write the figures of all outputs as JSON, by name.

    Args:
        files: the model and its samples.
        outputs: files of the tools, by name.
        seconds: processor time for the speeds; 0: they are not measured.
        result: the file to write.
        beside: name of the output that the speed of each is compared with.
    """
    session = _session(files.model)
    names = [o.name for o in session.get_outputs()]
    exact = [dict(zip(names, map(np.asarray, session.run(None, f)), strict=True)) for f in feeds_of(files.test)]
    figures: dict[str, Figures] = {}
    for name, path in outputs.items():
        try:
            here = quality(exact, _session(path), files.test)
            with_vnni = _with_vnni(exact, path, files.test, here)
            part_db = worst_part(exact, _session(path), files.test)
            figures[name] = Figures("", with_vnni.sqnr_db, here.sqnr_db, part_db, here.samples_db)
        except Exception as error:  # whatever onnxruntime says of a file that does not load
            figures[name] = Figures(error=f"{type(error).__name__}: {error}"[:300])
    good = {name: outputs[name] for name, f in figures.items() if not f.error}
    if good and seconds:
        rounds = speeds({"float": files.model, **good}, files.test, seconds)
        for name in good:
            figures[name].speed = ratio(rounds["float"], rounds[name])
            if beside in good:
                figures[name].beside = ratio(rounds[beside], rounds[name])
    result.write_text(json.dumps({n: asdict(f) for n, f in figures.items()}))
