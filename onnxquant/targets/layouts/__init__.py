"""Layouts: the orders that the planes of an encoded weight may have in a file, each with its way back.

A layout knows arrays, not nodes; targets build nodes on top of it and declare the layouts that they store planes in.
Targets may import this package; readers of files ask the targets for a layout by its name.
"""
