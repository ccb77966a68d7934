"""The steps of one model from its source to a proven output.

It may import report and every room below; inspect and the rooms above it may import it.
"""
