"""Arithmetic on arrays that knows no format, node or file.

It may import numpy, ml_dtypes and what is open to all; every room may import it.
"""
