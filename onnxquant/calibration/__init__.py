"""Statistics of activations: samples, observers, and the one pass that feeds them.

It may import passes and every room below; plan and the rooms above it may import it.
"""
