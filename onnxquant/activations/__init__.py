"""Integer activations: their places in the graph, the search for their ranges, and the correction of their errors.

It may import validation and every room below; report and the rooms above it may import it.
"""
