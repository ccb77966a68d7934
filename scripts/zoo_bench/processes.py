"""One function in a process of its own: its exit code, time, memory and output."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Exit code of a function that raised.
RAISED = 70


@dataclass(frozen=True)
class Run:
    """A process that ended.

    Attributes:
        code: exit code; minus the signal's number where a signal ended it.
        seconds: processor time of it and its children.
        wall: time on the clock.
        peak: largest resident size in bytes, of it or a child.
        output: text that it wrote to stdout and stderr.
        late: whether it was ended because its time was over.
    """

    code: int
    seconds: float
    wall: float
    peak: int
    output: str
    late: bool


def run(function: Callable[[], None], log: Path, limit: float) -> Run:
    """Run a function in a fork of this process: at most ``limit`` seconds of a processor, and ten times that in all."""
    begin = time.perf_counter()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(function, log, limit)
    late, status, usage = False, 0, None
    while usage is None:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            usage = used
        elif time.perf_counter() - begin > 10 * limit and not late:
            late = True
            os.killpg(child, signal.SIGKILL)
        else:
            time.sleep(0.02)
    wall = time.perf_counter() - begin
    text = log.read_text(errors="replace") if log.exists() else ""
    code = os.waitstatus_to_exitcode(status)
    late = late or code == -signal.SIGXCPU
    return Run(code, usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024, text, late)


def _child(function: Callable[[], None], log: Path, limit: float) -> None:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    code = 0
    try:
        function()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # whatever a tool may raise belongs into the log
        traceback.print_exc()
        code = RAISED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
