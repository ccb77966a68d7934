"""Packages of other languages that tests need, installed once into the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest


def node_modules(folder: Path) -> Path:
    """The installed packages of a folder's package-lock.json; the test is skipped where npm cannot have them."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no node or no npm is installed (Debian: nodejs, npm)")
    files = [folder / "package.json", folder / "package-lock.json"]
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxquant-tests"
    installed = cache / digest / "node_modules"
    if not installed.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            fresh = Path(temporary) / "packages"
            fresh.mkdir()
            for file in files:
                shutil.copy2(file, fresh)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"npm cannot install {folder.name}'s packages: {done.stderr.strip().splitlines()[-1]}")
            with suppress(OSError):  # another worker was faster
                fresh.rename(cache / digest)
    return installed
