"""Layers on arrays: a linear layer with an encoded weight, and products of ternary weights, without a session.

They may import solvers, targets, observers and every room below; recipe and the rooms above it may import them.
"""
