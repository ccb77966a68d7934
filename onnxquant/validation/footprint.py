"""Time and memory that loading a model takes, measured in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from onnxquant import runtime
from onnxquant.errors import ModelError
from onnxquant.json_data import from_json, to_json


@dataclass(frozen=True)
class Footprint:
    """Cost of loading a model on stock onnxruntime.

    Attributes:
        seconds: time until the session is ready.
        anonymous_bytes: resident memory that belongs to no file.
        resident_bytes: resident memory, mapped files included.
    """

    seconds: float
    anonymous_bytes: float
    resident_bytes: float


def footprint(path: Path) -> Footprint:
    """The cost of loading a model, measured in a process of its own.

    Raises:
        ModelError: the model does not load.
    """
    printed = in_own_process(__name__, path, *runtime.named_libraries())
    return from_json(Footprint, json.loads(printed, parse_int=float))


def in_own_process(module: str, path: Path, *arguments: str) -> str:
    """The output of a module's function ``main`` in a process of its own.

    Args:
        module: name of the module.
        path: the model, which is the first argument.
        arguments: the further ones.

    Raises:
        ModelError: it fails.
    """
    # -P: a module in the current folder, which may be anybody's download, must not be imported. The package is found
    # where this process found it.
    code = "import sys, importlib; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2]).main(*sys.argv[3:])"
    package = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-c", code, package, module, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise ModelError(f"{path}: cannot be loaded in a process of its own: {last[0].split(': ', 1)[-1]}")
    return done.stdout


def memory() -> dict[str, int]:
    """Bytes of resident memory of this process: anonymous and file-backed (Linux; zeros elsewhere)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {"RssAnon": 0, "RssFile": 0}
    lines = (line.split() for line in status.read_text().splitlines())
    return {f[0][:-1]: int(f[1]) * 1024 for f in lines if f and f[0] in ("RssAnon:", "RssFile:")}


def main(path: str, *libraries: str) -> None:
    """Load one model on stock onnxruntime and print its footprint as JSON.

    Args:
        path: the model.
        libraries: libraries of operators that the user names.
    """
    before = memory()
    begin = time.perf_counter()
    with runtime.custom_op_libraries(libraries):
        session = runtime.open_session(path, runtime.session_options(threads=1), library=False)
    seconds = time.perf_counter() - begin
    after = memory()
    anonymous = after["RssAnon"] - before["RssAnon"]
    resident = anonymous + after["RssFile"] - before["RssFile"]
    print(json.dumps(to_json(Footprint(seconds, anonymous, resident))))
    del session


if __name__ == "__main__":
    main(*sys.argv[1:])
