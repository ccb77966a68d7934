"""Layouts: the orders that the planes of an encoded weight may have in a file, each with its way back.

A layout knows arrays, not nodes; targets build nodes on top of it and declare the layouts that they store planes in. The
room targets may import this package, and ``onnxquant.targets.layout_named`` finds a layout for readers of files.
"""
