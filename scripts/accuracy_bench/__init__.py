"""Parts of scripts/bench_accuracy.py."""
