"""Arithmetic on arrays that knows no format, node or file.

It may import numpy only; every room may import it.
"""
