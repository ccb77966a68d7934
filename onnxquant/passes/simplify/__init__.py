"""Passes that remove or merge nodes so that kernels meet integers.

They may import what passes may; ``passes.pipeline`` runs most of them.
"""
