"""Statistics of activations: samples, and the one run over them that feeds the observers.

It may import recipe and every room below; plan and the rooms above it may import it.
"""
