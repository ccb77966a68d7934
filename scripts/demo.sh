#!/usr/bin/env bash
# From a fresh checkout to a proven, smaller model: sets up .venv, quantizes the embedded model to several formats,
# proves each, and prints what came out.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python scripts/demo.py "$@"
