"""Checkpoints for scripts/check_decoders.py and the tests."""
