# Sourced by demo.sh and test.sh: a virtual environment in .venv with the package built and installed.
# EXTRAS names the optional dependencies to install with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; $("$PYTHON" --version) found. Set PYTHON to another one." >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    echo "making a virtual environment in .venv"
    "$PYTHON" -m venv .venv
fi
echo "building and installing (a few minutes the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check ".${EXTRAS:+[$EXTRAS]}"
