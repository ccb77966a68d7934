"""What loading a model takes, measured in a process that does nothing else: run as a module, prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from onnxquant import runtime


def memory() -> dict[str, int]:
    """Bytes of resident memory of this process: anonymous and file-backed (Linux; zeros elsewhere)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {"RssAnon": 0, "RssFile": 0}
    lines = (line.split() for line in status.read_text().splitlines())
    return {f[0][:-1]: int(f[1]) * 1024 for f in lines if f and f[0] in ("RssAnon:", "RssFile:")}


def main(path: str) -> None:
    """Load one model on stock onnxruntime and print what that took."""
    before = memory()
    begin = time.perf_counter()
    session = runtime.open_session(path, runtime.session_options(threads=1), library=False)
    seconds = time.perf_counter() - begin
    after = memory()
    anonymous = after["RssAnon"] - before["RssAnon"]
    resident = anonymous + after["RssFile"] - before["RssFile"]
    print(json.dumps({"seconds": seconds, "anonymous_bytes": anonymous, "resident_bytes": resident}))
    del session


if __name__ == "__main__":
    main(sys.argv[1])
