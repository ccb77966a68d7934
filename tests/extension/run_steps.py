"""Runs steps in a process that has the demo extension on its path: commands of onnxquant, and calls of ``quantize``.

It reads a list of steps as JSON from standard input and writes a list of results to standard output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from click.testing import CliRunner

import onnxquant
from onnxquant.cli import main


def run(step: dict[str, Any]) -> dict[str, Any]:
    """Exit code and output of a command, or the report of a call."""
    if "command" in step:
        result = CliRunner().invoke(main, step["command"], prog_name="onnxquant")
        return {"exit_code": result.exit_code, "output": result.output, "error": repr(result.exception)}
    report = onnxquant.quantize(step["source"], step["output"], **step["keywords"])
    return {"passed": report.passed, "targets": [s.decision.target for s in report.encoded]}


if __name__ == "__main__":
    json.dump([run(step) for step in json.load(sys.stdin)], sys.stdout)
