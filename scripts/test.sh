#!/usr/bin/env bash
# Sets up .venv like demo.sh, then runs the linters and every test. Arguments go to pytest.
EXTRAS=test source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/ruff check .
.venv/bin/mypy
# Not `python -m pytest`: that would import the sources of this folder, which have no compiled library.
exec .venv/bin/pytest "$@"
