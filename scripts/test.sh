#!/usr/bin/env bash
# Sets up .venv like demo.sh, then runs the linters, every test, and the kernels once more under sanitizers. Arguments go to
# pytest; then the sanitizers are left out.
EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/lint-imports
.venv/bin/python scripts/check_layout.py --gate
# Not `python -m pytest`: that would import the sources of this folder, which have no compiled library.
# A worker takes tests as they stand, so that those of a module share its fixtures, and from another one what that has left.
.venv/bin/pytest -n auto --dist worksteal "$@"
[ $# -gt 0 ] || bash scripts/check_sanitizers.sh address
