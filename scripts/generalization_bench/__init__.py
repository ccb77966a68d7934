"""Parts of scripts/bench_generalization.py: photographs, networks, quantizers, rows and their table."""
