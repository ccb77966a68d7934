"""The user's intent: options, rules, and the files that hold them.

It may import passes and the rooms below; calibration and the rooms above it may import it.
"""
