"""Parts of ``fuzz_checkpoints.py``: small files of every kind, ways to damage them, and outcomes under limits."""
