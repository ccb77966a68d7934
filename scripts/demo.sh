#!/usr/bin/env bash
# From a fresh checkout to proven, smaller and faster models: sets up .venv, finds the best file of the embedded model for
# each goal, and prints them beside the original.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python scripts/demo.py "$@"
