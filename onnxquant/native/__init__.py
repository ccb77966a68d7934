"""The compiled library, and the choice between it and numpy.

It may import graph, formats and numerics; runtime and the rooms above it may import it.
"""
