"""Parts of scripts/compare_peers.py and scripts/bench_training_peers.py."""
