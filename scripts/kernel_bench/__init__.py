"""Parts of scripts/bench_kernels.py."""
