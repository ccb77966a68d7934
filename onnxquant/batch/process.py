"""Processes that do the jobs of a batch, so that one that dies takes only its own model with it.

A worker reads pickled jobs on its standard input and answers on its standard output. Not multiprocessing: a worker must
not run the caller's main module again.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from onnxquant.batch.job import Job, Row, perform
from onnxquant.runtime import environment_with

# Told the place of a job, what is being done and how much of it.
Progress = Callable[[int, str, float], None]
# A worker that was told to end gets so many seconds to remove its temporary files.
_PATIENCE = 10.0
# What is imported here is imported there, whatever lies in the current folder.
_PACKAGES = str(Path(__file__).parents[2])
_CODE = "from onnxquant.batch import process; process.main()"


def run(
    jobs: Sequence[Job], count: int, finished: Callable[[int, Row], None], progress: Progress, *, stop_at_failure: bool
) -> None:
    """Do jobs, so many at a time.

    Args:
        jobs: in the order in which they are begun.
        count: of processes.
        finished: called with the place of a job and its row.
        progress: called now and then.
        stop_at_failure: begin no other job once one has failed.
    """
    slots = _Slots(jobs, stop_at_failure=stop_at_failure)
    threads = [threading.Thread(target=slots.serve, daemon=True) for _ in range(min(count, len(jobs)))]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            event = slots.events.get()
            if event is None:
                running -= 1
            elif isinstance(event[1], Row):
                finished(event[0], event[1])
            else:
                progress(*event)
    finally:
        slots.stop()
        for thread in threads:
            thread.join()


class _Slots:
    """What the threads share, each of which feeds one process."""

    def __init__(self, jobs: Sequence[Job], *, stop_at_failure: bool) -> None:
        self.jobs = jobs
        self.waiting = deque(range(len(jobs)))
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stop_at_failure = stop_at_failure
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()

    def serve(self) -> None:
        """Give jobs to a process, and to another one when it has died."""
        worker: _Worker | None = None
        try:
            while not self._stopped.is_set() and self.waiting:
                try:
                    place = self.waiting.popleft()
                except IndexError:  # another thread was faster
                    break
                if worker and not worker.alive:
                    worker.end()
                    worker = None
                worker = worker or self._begin()
                if worker is None:
                    break
                row = worker.do(self.jobs[place], partial(self._told, place))
                if self._stopped.is_set() and not worker.alive:
                    break  # it did not fail, it was ended
                if self.stop_at_failure and not row.done:
                    self._stopped.set()
                self.events.put((place, row))
        finally:
            if worker:
                worker.end()
            self.events.put(None)

    def stop(self) -> None:
        """End all processes."""
        self._stopped.set()
        with self._lock:
            for worker in self._workers:
                worker.terminate()

    def _told(self, place: int, stage: str, done: float) -> None:
        self.events.put((place, stage, done))

    def _begin(self) -> _Worker | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            worker = _Worker()
            self._workers.add(worker)
            return worker


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # In a session of its own: Ctrl-C is for this process to deal with.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
            env=environment_with(PYTHONPATH=os.pathsep.join([_PACKAGES, *(p or os.getcwd() for p in sys.path)])),  # noqa: PTH109
        )  # fmt: skip
        self._input, self._output = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)

    @property
    def alive(self) -> bool:
        """Whether it can be given another job."""
        return self._process.poll() is None

    def do(self, job: Job, told: Callable[[str, float], None]) -> Row:
        """The row of a job, also where the process dies of it."""
        try:
            pickle.dump(job, self._input)
            self._input.flush()
            while True:
                answer = pickle.load(self._output)
                if isinstance(answer, Row):
                    return answer
                told(*answer)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process.wait()
            return job.row("ERROR", f"its process died: {self._cause()}")

    def terminate(self) -> None:
        """Let it end, and see to it that it does."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def end(self) -> None:
        """Wait for a process that has nothing left to do."""
        with contextlib.suppress(OSError):
            self._input.close()
        self._process.wait()
        self._output.close()
        self._errors.close()

    def _cause(self) -> str:
        code = self._process.returncode
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        return cause + hint + (f": {said[-1][-300:]}" if said else "")


def main() -> None:
    """The process: jobs in, rows out, until there are no more."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what libraries print is no answer

        def told(stage: str, done: float) -> None:
            pickle.dump((stage, done), answers)
            answers.flush()

        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump(perform(job, told), answers)
            answers.flush()
