"""Processes that run the jobs of a batch, so that one that dies costs only its own model.

They are started with ``subprocess``, not ``multiprocessing``, which would import the caller's ``__main__`` again. A process
reads pickled jobs on its standard input and writes pickled progress and results on its standard output.
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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from onnxquant.batch.job import Job, Row, run_job
from onnxquant.recipe.progress import Progress
from onnxquant.report.state import State
from onnxquant.system.environment import environment_with

# Seconds that a terminated process has to remove its temporary files.
_PATIENCE = 10.0
# The package that is imported here is imported there, whatever lies in the current folder.
_PACKAGES = str(Path(__file__).parents[2])
_CODE = "from onnxquant.batch import process; process.main()"


class Listener(Protocol):
    """Functions that are called while jobs run, all of them in the thread that called ``run``."""

    def finished(self, index: int, row: Row) -> None:
        """Take the result of a job."""

    def advanced(self, index: int, stage: str, done: float) -> None:
        """Take note of the progress of a job."""


@dataclass(frozen=True)
class _Finished:
    index: int
    row: Row


@dataclass(frozen=True)
class _Advanced:
    index: int
    stage: str
    done: float


@dataclass(frozen=True)
class _Ended:
    """The last event of a thread."""


def run(jobs: Sequence[Job], count: int, listener: Listener, *, stop_at_failure: bool) -> None:
    """Run jobs in processes.

    Args:
        jobs: jobs in the order in which they are begun
        count: number of processes
        listener: receiver of progress and results
        stop_at_failure: whether no other job is begun once one has failed
    """
    pool = _ProcessPool(jobs, stop_at_failure=stop_at_failure)
    threads = [threading.Thread(target=pool.serve, daemon=True) for _ in range(min(count, len(jobs)))]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            event = pool.events.get()
            if isinstance(event, _Finished):
                listener.finished(event.index, event.row)
            elif isinstance(event, _Advanced):
                listener.advanced(event.index, event.stage, event.done)
            else:
                running -= 1
    finally:
        pool.stop()
        for thread in threads:
            thread.join()


class _ProcessPool:
    """State that the threads share, each of which feeds one process."""

    def __init__(self, jobs: Sequence[Job], *, stop_at_failure: bool) -> None:
        self.events: queue.SimpleQueue[_Finished | _Advanced | _Ended] = queue.SimpleQueue()
        self._jobs = jobs
        self._waiting = deque(range(len(jobs)))
        self._stop_at_failure = stop_at_failure
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._processes: set[_Process] = set()

    def serve(self) -> None:
        """Give jobs to a process, and to another one when it has died."""
        process: _Process | None = None
        try:
            while not self._stopped.is_set() and self._waiting:
                try:
                    index = self._waiting.popleft()
                except IndexError:  # another thread was faster
                    break
                if process and not process.is_alive:
                    process.end()
                    process = None
                process = process or self._start()
                if process is None:
                    break
                row = process.run(self._jobs[index], partial(self._advance, index))
                if self._stopped.is_set() and not process.is_alive:
                    break  # the job did not fail, its process was ended
                if self._stop_at_failure and not row.done:
                    self._stopped.set()
                self.events.put(_Finished(index, row))
        finally:
            if process:
                process.end()
            self.events.put(_Ended())

    def stop(self) -> None:
        """End all processes."""
        self._stopped.set()
        with self._lock:
            for process in self._processes:
                process.terminate()

    def _advance(self, index: int, stage: str, done: float) -> None:
        self.events.put(_Advanced(index, stage, done))

    def _start(self) -> _Process | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            process = _Process()
            self._processes.add(process)
            return process


class _Process:
    """One process that runs one job after the other."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        # In a session of its own: Ctrl-C is for this process to deal with.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
            env=environment_with(PYTHONPATH=os.pathsep.join([_PACKAGES, *(p or os.getcwd() for p in sys.path)])),  # noqa: PTH109
        )  # fmt: skip
        self._input, self._output = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)

    @property
    def is_alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def run(self, job: Job, progress: Progress) -> Row:
        """The result of a job; an error where the process dies."""
        try:
            pickle.dump(job, self._input)
            self._input.flush()
            while True:
                answer = pickle.load(self._output)
                if isinstance(answer, Row):
                    return answer
                progress(*answer)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process.wait()
            return job.row(State.ERROR, f"its process died: {self._cause()}")

    def terminate(self) -> None:
        """Ask it to end, and kill it where it does not."""
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def end(self) -> None:
        """Wait for a process that has no more jobs."""
        with contextlib.suppress(OSError):
            self._input.close()
        self._process.wait()
        self._output.close()
        self._errors.close()

    def _cause(self) -> str:
        code = self._process.returncode
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        return cause + hint + (f": {lines[-1][-300:]}" if lines else "")


def main() -> None:
    """Run jobs from standard input until there are no more."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # stdout carries the answers, so that prints of libraries go to stderr

        def progress(stage: str, done: float) -> None:
            pickle.dump((stage, done), answers)
            answers.flush()

        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump(run_job(job, progress), answers)
            answers.flush()
