"""Profiles of models side by side: where the time of a run goes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from onnxquant import runtime
from onnxquant.arguments import checked
from onnxquant.calibration.feeds import Data, Feed, facts_of
from onnxquant.calibration.feeds.prepared import preparation
from onnxquant.calibration.samples import Samples
from onnxquant.errors import RecipeError
from onnxquant.graph.io import Document, load
from onnxquant.inspect.operator_times import ModelProfile, TimedRuns, operator_times
from onnxquant.recipe.options import Options
from onnxquant.validation.latency import processor_clock
from onnxquant.validation.reference import sampled_outputs
from onnxquant.validation.structure import refuse_other_inputs

# Rounds at most, and at least; seconds of the processor, and by the clock on the wall, after which these are enough.
_MOST, _FEWEST, _ENOUGH, _LONG = 30, 5, 4.0, 20.0
# Seconds of the runs of one session in a round, and their number at most. The first of several does not count: what other
# sessions have pushed out of the processor's cache comes back in it.
_ROUND_SECONDS, _MOST_RUNS = 5e-3, 20


@dataclass
class TimedSession:
    """A session whose runs are counted in rounds.

    Attributes:
        run: function that runs it once.
        clock: clock of the runs.
        count: number of runs in a round.
        total: number of runs so far.
        counted: places of the runs that count among all of them.
        seconds: seconds of these.
    """

    run: Callable[[], object]
    clock: Callable[[], float]
    count: int = 1
    total: int = 0
    counted: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Run it twice, and decide on the number of runs in a round."""
        self.run()
        begin = time.perf_counter()
        self.run()
        self.total = 2
        self.count = max(1, min(_MOST_RUNS, round(_ROUND_SECONDS / max(time.perf_counter() - begin, 1e-9))))

    def round(self) -> None:
        """Run it as often as in each round."""
        for place in range(self.count):
            begin = self.clock()
            self.run()
            if place or self.count == 1:
                self.seconds.append(max(self.clock() - begin, 1e-9))
                self.counted.append(self.total)
            self.total += 1


def run_clock(threads: int) -> Callable[[], float]:
    """The clock of whole runs: processor time of one thread, which other processes do not add to; else that on the wall."""
    return processor_clock(1) if threads == 1 else time.perf_counter


def in_rounds(sessions: Sequence[TimedSession]) -> None:
    """Run sessions in turns, after a warm-up, so that what else the machine does meets all of them."""
    for session in sessions:
        session.warm_up()
    begin, processor = time.perf_counter(), time.process_time()
    for done in range(_MOST):
        is_enough = time.process_time() - processor > _ENOUGH or time.perf_counter() - begin > _LONG
        if done >= _FEWEST and is_enough:
            return
        for session in sessions:
            session.round()


@dataclass(frozen=True)
class _Measured:
    """The two sessions of a model, of which one is watched.

    Attributes:
        plain: the session that is not.
        traced: the one that is.
        session: its session.
        folder: folder of its trace.
    """

    plain: TimedSession
    traced: TimedSession
    session: runtime.Session
    folder: Path

    @classmethod
    def of(cls, path: Path, feed: Feed, threads: int, folder: Path) -> _Measured:
        """The sessions of a file, that run one sample."""
        options, watched = (runtime.session_options(threads=threads, spinning=False) for _ in range(2))
        runtime.trace_into(watched, folder)
        plain, traced = runtime.open_session(path, options), runtime.open_session(path, watched)
        by_plain, by_traced = (
            TimedSession(partial(runtime.run, session, feed), run_clock(threads)) for session in (plain, traced)
        )
        return cls(by_plain, by_traced, traced, folder)


@checked
def profile(*models: str | Path, data: Data | None = None, **options: object) -> list[ModelProfile]:
    """The time of models in a run of one sample, by operator and by node; a profile each.

    Runs with onnxruntime's profiler alternate with runs without it, which tell what it costs.

    Args:
        models: ONNX files with the same inputs.
        data: samples, of which the first is run; None: synthetic, for a decoder with a cache one token after others.
        options: ``seed``, ``threads``, ``dim``, ``preprocess``, ``external_root``, ``custom_op_library``.

    Raises:
        RecipeError: no model is given, or an option is wrong.
        ModelError: a model does not load or run.
    """
    if not models:
        raise RecipeError("profile takes at least one model")
    settings = replace(Options.make(options), samples=1)
    threads = settings.threads or 1
    paths = [Path(model) for model in models]
    documents = [load(path, settings.external_root) for path in paths]
    for document in documents[1:]:
        refuse_other_inputs(documents[0], document)
    samples = None if data is None else Samples(data, settings, facts_of(*documents))
    with (
        runtime.custom_op_libraries(settings.custom_op_library),
        tempfile.TemporaryDirectory(prefix="onnxquant-") as root,
    ):
        sampled = sampled_outputs(paths[0], samples, settings)
        feed = sampled.step or sampled.feeds[0]
        folders = [Path(tempfile.mkdtemp(dir=root)) for _ in paths]
        measured = [_Measured.of(path, feed, threads, folder) for path, folder in zip(paths, folders, strict=True)]
        in_rounds([session for one in measured for session in (one.plain, one.traced)])
        return [
            replace(_profile(document, str(path), one, threads), samples=preparation(sampled.origin))
            for path, document, one in zip(paths, documents, measured, strict=True)
        ]


def _profile(document: Document, name: str, measured: _Measured, threads: int) -> ModelProfile:
    trace = runtime.end_trace(measured.session, measured.folder)
    counted = [trace.runs[i] for i in measured.traced.counted if i < len(trace.runs)]
    runs = TimedRuns(measured.plain.seconds, measured.traced.seconds, counted)
    return operator_times(document.proto, trace.graph, runs, threads, name)
