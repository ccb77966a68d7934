"""Properties of a graph that passes ask for: linear chains, scale paths, interchangeable channels, windows.

It may import the rest of graph; passes and the rooms above it may import it.
"""
