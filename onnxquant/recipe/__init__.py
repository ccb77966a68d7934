"""The user's intent: options, rules, and the files that hold them.

It may import solvers, targets, observers and the rooms below; passes and the rooms above it may import it.
"""
