"""Parts of scripts/bench_zoo.py."""
