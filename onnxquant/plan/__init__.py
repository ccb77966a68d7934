"""Decisions about each weight, made from rules and shapes alone, and the context that the steps of a run share.

It may import calibration and every room below; artifact and the rooms above it may import it.
"""
