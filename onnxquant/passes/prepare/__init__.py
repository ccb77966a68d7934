"""Passes that bring any model into the form that the rest expects.

They may import what passes may; ``passes.pipeline`` runs them, but for opset.py, which convert runs.
"""
