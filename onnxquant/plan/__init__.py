"""Decisions: what becomes of each weight, made from rules and shapes alone.

It may import calibration and every room below; artifact and the rooms above it may import it.
"""
