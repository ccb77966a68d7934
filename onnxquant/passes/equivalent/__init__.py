"""Passes that change weights but not the function: the result is easier to round.

They may import what passes may; activations and convert call them.
"""
