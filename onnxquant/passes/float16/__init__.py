"""The conversion of a whole graph to float16.

It may import what passes may; convert calls it.
"""
