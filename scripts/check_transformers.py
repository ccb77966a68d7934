"""Whether transformers reads what is written here, and the other way: a tiny Llama in every layout, on the CPU.

Weights decoded by both are compared, and logits with those of the float model that has these weights. Layouts whose
packages are not installed are skipped. Exit code 1 where a layout differs, or cannot be loaded.

    pip install transformers accelerate bitsandbytes compressed-tensors gguf optimum gptqmodel
    python scripts/check_transformers.py [NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import traceback
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling takes longer than computing
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

PACKAGES = (
    "transformers", "torch", "gguf", "bitsandbytes", "gptqmodel", "optimum", "compressed-tensors", "accelerate",
)  # fmt: skip


def main() -> None:
    """Print a line for each layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of layouts; all without one")
    parser.add_argument("--verbose", action="store_true", help="tracebacks of those that fail")
    options = parser.parse_args()
    try:
        from transformers_check import read, written
        from transformers_check.models import version_of
    except ImportError as error:
        sys.exit(f"skipped: {error.name} is not installed")
    print(", ".join(f"{name} {version_of(name) or 'not installed'}" for name in PACKAGES), flush=True)
    failures = 0
    for check in (*written.checks(), *read.checks()):
        if options.names and not any(name in check.name for name in options.names):
            continue
        if check.missing:
            print(f"skipped  {check.name}: {', '.join(check.missing)} is not installed", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            quiet = io.StringIO()
            try:
                with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                    difference = check.run(Path(folder))
            except Exception as error:  # whatever another tool raises is the result
                text = traceback.format_exc() if options.verbose else f"{type(error).__name__}: {str(error)[:300]}"
                print(f"FAILED   {check.name}: {text}", flush=True)
                failures += 1
                continue
        is_same = check.passes(difference)
        failures += not is_same
        logits = "" if difference.logits is None else f", logits by {difference.logits:.1e}"
        word = "same    " if is_same else "FAILED  "
        print(f"{word} {check.name}: weights differ by {difference.weights:.1e}{logits}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
