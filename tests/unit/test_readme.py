"""What the README says is what the package does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_formats_is_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "format_table.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
