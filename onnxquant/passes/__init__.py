"""Passes from graph to graph, in the folders of their purposes; pipeline.py has their order.

They may import recipe and every room below; calibration and the rooms above it may import them.
"""
